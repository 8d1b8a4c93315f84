package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/contract/owners"
)

// daemon starts the sandbox's virtiofsd, and shows it what is shared with the Pod. Kata does both one after the other.
type daemon struct {
	kubelet string                       // the folder of all Pods' volumes, empty if it is not known
	table   func() ([]mountPoint, error) // the host's mounts
	pod     func() string                // the Pod's uid, empty if it is not known

	users *owners.Users // that it acts for; nil while there is none, and if it has to be the host's root
}

// newDaemon is the one of the sandbox whose configuration lies in the working folder, where containerd has started us.
func newDaemon(c contract.HostConfig) *daemon {
	return &daemon{kubelet: c.KubeletDir, table: hostMounts, pod: podUID}
}

// podUID reads the uid of the sandbox's Pod.
func podUID() string {
	raw, err := os.ReadFile("config.json")
	var d description
	if err != nil || json.Unmarshal(raw, &d) != nil {
		return ""
	}
	return d.Annotations[contract.CRISandbox+"uid"]
}

// start starts what Kata starts for a sandbox, in the place of its own function. virtiofsd begins in namespaces of its own, of which it
// makes its jail. It is nobody of the host's where all that it may have to show can be shown so; else it is the host's root.
func (d *daemon) start(cmd *exec.Cmd) error {
	if filepath.Base(cmd.Path) != contract.Virtiofsd {
		return cmd.Start()
	}
	shared := ""
	for _, arg := range cmd.Args {
		if dir, ok := strings.CutPrefix(arg, "--shared-dir="); ok {
			shared = filepath.Clean(dir)
			if err := passOnMounts(shared); err != nil {
				return err
			}
		}
	}
	users, err := d.usersFor(cmd.Path, shared)
	if errors.Is(err, owners.ErrUnknown) {
		fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2: virtiofsd is root on the host:", err)
	} else if err != nil {
		return err
	}
	d.users = users
	programs := filepath.Join(filepath.Dir(filepath.Dir(cmd.Path)), "qemu")
	return users.Start(cmd, contract.VirtiofsdNamespaces, programs, shared)
}

// usersFor makes the Pod's users. It is owners.ErrUnknown where they could not be shown the share, the kubelet's files or one of the Pod's
// volumes, which the kubelet mounts before it asks for a sandbox.
func (d *daemon) usersFor(program, shared string) (*owners.Users, error) {
	folders := []string{shared}
	if d.kubelet != "" {
		folders = append(folders, d.kubelet)
	}
	table, err := d.table()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	if pod := d.pod(); pod != "" {
		for _, m := range table {
			if strings.Contains(m.point, "/pods/"+pod+"/volumes/") && m.fstype != "hugetlbfs" {
				folders = append(folders, m.point)
			}
		}
	}
	return owners.For(program, folders...)
}

// show opens what lies at a path of the host as a mount that has no place yet, and has the daemon's users own its files. What is on a file
// system that cannot be shown so stays as it is: the daemon may do there what everybody may.
func (d *daemon) show(path string, readOnly bool) (tree int, err error) {
	if tree, err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	err = d.users.Map(tree)
	if errors.Is(err, owners.ErrUnknown) && readOnly {
		if image, ok := d.image(path); ok {
			_ = unix.Close(tree) // it has no place
			return image, nil
		}
	}
	if errors.Is(err, owners.ErrUnknown) {
		fmt.Fprintf(os.Stderr, "containerd-shim-kata-v2: the Pod may do with %s what everybody may: %v\n", path, err)
		err = nil
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(tree))
	}
	return tree, nil
}

// image shows, of an image that containerd has mounted to be read, what lies below the overlay: no overlay can be mapped, an image can.
func (d *daemon) image(path string) (tree int, ok bool) {
	table, err := d.table()
	if err != nil {
		return -1, false
	}
	at, found := mountOf(table, path)
	if !found || at.point != path || at.lower == "" || !strings.Contains(path, "/image-volumes/") {
		return -1, false
	}
	if tree, err = unix.OpenTree(unix.AT_FDCWD, at.lower, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return -1, false
	}
	if err := d.users.Map(tree); err != nil {
		_ = unix.Close(tree) // it has no place
		return -1, false
	}
	return tree, true
}

// bind bind mounts what Kata shares of single files, in the place of its own call.
func (d *daemon) bind(source, destination string) error {
	if d.users == nil || strings.HasPrefix(source, "/"+contract.KataShares+"/") { // it has been bound by us
		return unix.Mount(source, destination, "bind", unix.MS_BIND, "")
	}
	tree, err := d.show(source, false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", unix.AT_FDCWD, destination, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// passOnMounts makes a folder pass on what is mounted on it later to the namespaces that are made from now on: volumes are mounted on what
// virtiofsd shares as they are needed.
func passOnMounts(dir string) error {
	err := unix.Mount("", dir, "", unix.MS_SHARED, "")
	if err != nil && !errors.Is(err, unix.EINVAL) { // a plain folder is part of a mount whose way it goes
		return fmt.Errorf("make %s a shared mount: %w", dir, err)
	}
	return nil
}
