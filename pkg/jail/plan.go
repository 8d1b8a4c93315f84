package jail

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Plan is what a program has in its jail. Nothing else of the host is there.
type Plan struct {
	Argv []string // the program by its path in the jail, and its arguments
	Env  []string
	Name string // of the host, as the program sees it

	Shown   []Shown  // files and folders of the host
	Devices []string // device nodes of the host, by their path; each is made anew in the jail, and is the user's
	Links   []Link   // symbolic links of the jail's own
	Proc    bool     // the jail has a /proc, of its own processes and nothing else

	User         int       // and group; it has no other groups
	Capabilities []uintptr // that it keeps
	Limits       []Limit
	Calls        Calls

	files int // descriptors that it inherits, from firstFile on; Start counts them
}

// Shown is a file or folder of the host that the jail has at the same path.
type Shown struct {
	Path     string
	Writable bool
	Programs bool // it may be run, and mapped to be run
	// Mounts shows what is mounted below the folder as well, now and, where the folder is a shared mount of the host, later. What comes
	// later has the rights that it has on the host.
	Mounts bool
	// Tree is a descriptor of it, as a mount that has no place yet (open_tree(2)); 0 for what is at the path. Who has another user namespace
	// than the host may not find it there.
	Tree int
}

// Link is a symbolic link that the jail has at a path. What it says is only text: it leads to nothing that is not shown.
type Link struct{ Path, Target string }

// Limit bounds a resource, such as unix.RLIMIT_NOFILE. A process that may not raise its limits keeps a lower one that it has.
type Limit struct {
	Resource int
	Most     uint64
}

// firstFile is the first descriptor that exec.Cmd.ExtraFiles become.
const firstFile = 3

// validate finds what would make a jail that does not hold, or cannot be made.
func (p Plan) validate() error {
	var errs []error
	if len(p.Argv) == 0 {
		errs = append(errs, errors.New("no program"))
	}
	if p.User < 0 {
		errs = append(errs, fmt.Errorf("user %d", p.User))
	}
	if len(p.Calls.Allow) == 0 {
		errs = append(errs, errors.New("no system call is allowed"))
	}
	for _, s := range p.Shown {
		if !filepath.IsAbs(s.Path) || filepath.Clean(s.Path) != s.Path || s.Path == "/" {
			errs = append(errs, fmt.Errorf("shown path %q is not absolute and clean", s.Path))
		}
	}
	for _, path := range p.Devices {
		if !below(path, deviceDir) {
			errs = append(errs, fmt.Errorf("device %q is not in %s", path, deviceDir))
		}
	}
	for _, l := range p.Links {
		if !filepath.IsAbs(l.Path) || filepath.Clean(l.Path) != l.Path || l.Path == "/" || l.Target == "" || p.meets(l.Path) {
			errs = append(errs, fmt.Errorf("link %q is not absolute and clean, says nothing, or meets what is shown", l.Path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("plan a jail: %w", err)
	}
	return nil
}

// below tells whether a clean path is below a folder.
func below(path, dir string) bool {
	return filepath.Clean(path) == path && strings.HasPrefix(path, dir+"/")
}

// meets tells whether a link would be in what is shown, or what is shown, and the links made later, behind it: the jail is built by paths,
// while the host's root is still there to be led to.
func (p Plan) meets(link string) bool {
	paths := []string{deviceDir, procDir}
	for _, s := range p.Shown {
		paths = append(paths, s.Path)
	}
	for _, path := range paths {
		if path == link || below(path, link) || below(link, path) {
			return true
		}
	}
	others := 0
	for _, l := range p.Links {
		if below(l.Path, link) {
			return true
		}
		if l.Path == link {
			others++
		}
	}
	return others > 1
}

// Namespaces are those that the jail has of its own.
const Namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
