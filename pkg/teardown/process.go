package teardown

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

const (
	killTimeout  = 10 * time.Second
	pollInterval = 10 * time.Millisecond
)

// process is one that runs.
type process struct {
	pid  int
	exe  string // empty for zombies and kernel threads
	args []string
}

// processes lists what runs, from the /proc below root.
func processes(root string) ([]process, error) {
	entries, err := os.ReadDir(filepath.Join(root, "proc"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(root, "proc", e.Name())
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil {
			continue // gone, a zombie, or the kernel's
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		all = append(all, process{pid: pid, exe: strings.TrimSuffix(exe, " (deleted)"), args: args})
	}
	return all, nil
}

// runsFrom tells whether the executable is in one of the folders.
func (p process) runsFrom(dirs []string) bool {
	for _, dir := range dirs {
		if dir != "" && strings.HasPrefix(p.exe, filepath.Clean(dir)+"/") {
			return true
		}
	}
	return false
}

// names tells whether an argument has the sandbox's id in it.
func (p process) names(id string) bool {
	return slices.ContainsFunc(p.args, func(arg string) bool { return contract.NamesSandbox(arg, id) })
}

// shimOf is the sandbox that a living Kata shim serves, ours or another's; empty for every other process.
func (p process) shimOf() string {
	if filepath.Base(p.exe) != contract.Shim || len(p.args) == 0 {
		return ""
	}
	if last := p.args[len(p.args)-1]; last == "delete" {
		return ""
	}
	if i := slices.Index(p.args, "-id"); i >= 0 && i+1 < len(p.args) {
		return p.args[i+1]
	}
	return ""
}

func (p process) String() string {
	name := filepath.Base(p.exe)
	if len(p.args) > 0 && p.args[0] != "" {
		name = filepath.Base(p.args[0])
	}
	return fmt.Sprintf("process %d (%s)", p.pid, name)
}

// killAll ends the processes that find lists, until it lists none.
func killAll(find func() ([]process, error), kill func(pid int, sig syscall.Signal) error) error {
	deadline := time.Now().Add(killTimeout)
	for {
		list, err := find()
		if err != nil || len(list) == 0 {
			return err
		}
		for _, p := range list {
			if err := kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %s: %w", p, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill %v: still there after %s", list, killTimeout)
		}
		time.Sleep(pollInterval)
	}
}
