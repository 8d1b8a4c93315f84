package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
)

// startDaemon starts what Kata starts for a sandbox, in the place of its own function. virtiofsd begins in namespaces of its own, of which
// it makes its jail.
func startDaemon(cmd *exec.Cmd) error {
	if filepath.Base(cmd.Path) != contract.Virtiofsd {
		return cmd.Start()
	}
	for _, arg := range cmd.Args {
		if dir, ok := strings.CutPrefix(arg, "--shared-dir="); ok {
			if err := passOnMounts(dir); err != nil {
				return err
			}
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: contract.VirtiofsdNamespaces}
	return cmd.Start()
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
