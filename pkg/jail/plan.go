package jail

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Plan is what a program has in its jail. Nothing else of the host is there.
type Plan struct {
	Argv []string // the program by its path in the jail, and its arguments
	Env  []string
	Name string // of the host, as the program sees it

	Shown   []Shown  // files and folders of the host
	Devices []string // device nodes of the host, by their path; each is made anew in the jail, and is the user's
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
		if filepath.Dir(path) != deviceDir {
			errs = append(errs, fmt.Errorf("device %q is not in %s", path, deviceDir))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("plan a jail: %w", err)
	}
	return nil
}

// Namespaces are those that the jail has of its own.
const Namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
