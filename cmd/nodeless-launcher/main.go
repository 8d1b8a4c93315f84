// Command nodeless-launcher is the front of the file that ships. It lays out the bundle that it carries, once per
// version, and becomes the main program in it, under the name by which it was called.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/hint"
)

func main() {
	err := launch(os.Args, os.Environ())
	fmt.Fprintln(os.Stderr, "error:", err)
	for _, do := range hint.Of(err) {
		fmt.Fprintln(os.Stderr, "hint:", do)
	}
	os.Exit(1)
}

// launch returns only when the main program cannot be started.
func launch(args, env []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own file: %w", err)
	}
	data, err := dataDir(args, os.Getenv, os.ReadFile, os.Geteuid() == 0)
	if err != nil {
		return err
	}
	fd, err := syscall.Open("/proc/self/exe", syscall.O_RDONLY|syscall.O_CLOEXEC, 0) // works when the file was replaced, too
	if err != nil {
		return fmt.Errorf("open own file: %w", err)
	}
	file := os.NewFile(uintptr(fd), self) // so that messages name the file, not /proc
	dir, err := bundle.Unpack(file, filepath.Join(data, "bundle"))
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("close own file: %w", err)
	}
	program := filepath.Join(dir, "bin", "nodeless")
	err = syscall.Exec(program, args, append(env, "NODELESS_LAUNCHER="+self))
	return &hint.Error{
		Op: "start", On: program, Err: err,
		Do: "check that the folder is on a file system from which programs may be run (not mounted noexec), or choose another with --data-dir",
	}
}
