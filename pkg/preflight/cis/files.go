package cis

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// file is one that is there.
type file struct {
	path string
	info fs.FileInfo
}

// stat gives the paths that are there, folders with all that they hold. A path that cannot be read is an error: it must not look safe.
func (f Facts) stat(paths ...string) ([]file, error) {
	var found []file
	for _, p := range paths {
		if p == "" {
			continue
		}
		err := fs.WalkDir(f.Root, strings.TrimPrefix(p, "/"), func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			found = append(found, file{"/" + name, info})
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return found, nil
}

// closed asks that nobody but root owns the files that want chooses, and that they have no bit beyond most.
func closed(f Facts, most fs.FileMode, want func(file) bool, paths ...string) verdict {
	found, err := f.stat(paths...)
	if err != nil {
		return warn(err.Error(), "run it as root")
	}
	n := 0
	var open []string
	for _, x := range found {
		if !want(x) {
			continue
		}
		n++
		if mode := x.info.Mode().Perm(); mode&^most != 0 || owner(x.info) != 0 {
			open = append(open, fmt.Sprintf("%s (%04o, uid %d)", x.path, mode, owner(x.info)))
		}
	}
	switch {
	case len(open) > 0:
		return warn(some(open), fmt.Sprintf("chown root and chmod %o what is named", most))
	case n == 0:
		return notApplicable(notYet)
	}
	return pass(fmt.Sprintf("%d, %04o or stricter, root's", n, most))
}

// owner is the uid; a file system that does not tell counts as root's.
func owner(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}

// some names the first few of a list.
func some(list []string) string {
	const few = 4
	if len(list) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
	}
	return strings.Join(list, ", ")
}

func regular(x file) bool { return x.info.Mode().IsRegular() }

func named(pattern string) func(file) bool {
	return func(x file) bool {
		ok, err := path.Match(pattern, path.Base(x.path))
		return ok && err == nil && regular(x)
	}
}

// only is the path itself and nothing below it.
func only(p string) func(file) bool { return func(x file) bool { return x.path == p } }

const notYet = "there is no such file: no server has run with these settings yet"

const inProcess = "the component runs in the server's process and has no Pod and no such file"

func controlFiles() []check {
	return []check{
		never("1.1.1-1.1.8", "manifests of the control plane's Pods are root's alone", inProcess),
		{"1.1.9-1.1.10", "settings and allocations of the Pod network are root's alone", func(f Facts) verdict { return closed(f, 0o600, regular, f.Files.CNI...) }},
		{"1.1.11", "the datastore's folder is closed", func(f Facts) verdict { return closed(f, 0o700, only(f.Files.Datastore), f.Files.Datastore) }},
		{"1.1.12", "the datastore's files are its owner's alone", func(f Facts) verdict { return closed(f, 0o600, regular, f.Files.Datastore) }},
		{"1.1.13-1.1.14", "the administrator's kubeconfig is root's alone", func(f Facts) verdict { return closed(f, 0o600, regular, f.Files.Kubeconfig) }},
		{"1.1.15-1.1.18", "kubeconfigs of scheduler and controllers are root's alone", func(f Facts) verdict { return closed(f, 0o600, named("*.kubeconfig"), f.Files.Cred) }},
		{"1.1.19", "folders of certificates and keys are root's alone", func(f Facts) verdict {
			return closed(f, 0o700, func(x file) bool { return x.info.IsDir() }, append([]string{f.Files.Cred}, f.Files.TLS...)...)
		}},
		{"1.1.20", "nobody but root can write certificates", func(f Facts) verdict { return closed(f, 0o644, named("*.crt"), f.Files.TLS...) }},
		{"1.1.21", "nobody but root can read keys", func(f Facts) verdict { return closed(f, 0o600, named("*.key"), f.Files.TLS...) }},
	}
}

func workerFiles() []check {
	return []check{
		{"4.1.1-4.1.2", "nobody but root can write the service", func(f Facts) verdict {
			if len(f.Files.Unit) == 0 {
				return notApplicable("install.sh has not made a service here")
			}
			return closed(f, 0o644, regular, f.Files.Unit...)
		}},
		{"4.1.3-4.1.6", "kubeconfigs of kubelet and kube-proxy are root's alone", func(f Facts) verdict { return closed(f, 0o600, named("kube*.kubeconfig"), f.Files.Cred) }},
		{"4.1.7-4.1.8", "nobody but root can write the authority that the kubelet believes", func(f Facts) verdict { return closed(f, 0o644, named("client-ca.crt"), f.Files.TLS...) }},
		never("4.1.9-4.1.10", "the kubelet's file of settings is root's alone", "the kubelet is handed its settings in memory; there is no file"),
	}
}
