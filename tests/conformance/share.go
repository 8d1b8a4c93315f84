package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// raiseShare gives all Pods of a test host more of the CPUs than a program of the machine has, where there are others: emulated Pods take
// minutes beside a compiler, and tests do not wait so long.
func raiseShare(cgroups, name string) error {
	for file, value := range map[string]string{"cpu/" + name + "/cpu.shares": "8192", name + "/cpu.weight": "800"} {
		path := filepath.Join(cgroups, file)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue // of the other version of cgroups
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}
