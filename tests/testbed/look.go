package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A look at a host that is another machine takes a command there. So these take many names at once.

// lookTimeout is how long such a command may take by the machine's own clock.
const lookTimeout = 30 * time.Second

// over runs a shell script on the machine.
func (h *Host) over(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience(lookTimeout))
	defer cancel()
	return h.Exec(ctx, "sh", "-c", script)
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(name string) ([]byte, error) {
	if h.machine == nil {
		return os.ReadFile(h.Path(name))
	}
	out, err := h.over("cat " + quote(name))
	return []byte(out), err
}

// Glob gives the files of the host that match one of the patterns, by their names inside the host.
func (h *Host) Glob(patterns ...string) ([]string, error) {
	if h.machine != nil {
		out, err := h.over("for f in " + strings.Join(patterns, " ") + `; do [ ! -e "$f" ] && [ ! -L "$f" ] || printf '%s\n' "$f"; done`)
		return slices.DeleteFunc(strings.Split(out, "\n"), func(name string) bool { return name == "" }), err
	}
	var found []string
	for _, pattern := range patterns {
		names, err := filepath.Glob(h.Path(pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found = append(found, "/"+strings.TrimPrefix(strings.TrimPrefix(name, h.Path("/")), "/"))
		}
	}
	return found, nil
}

// Kill sends a signal to a process of the host, by the pid that Processes gives.
func (h *Host) Kill(pid int, sig syscall.Signal) error {
	if h.machine == nil {
		return syscall.Kill(pid, sig)
	}
	// The shell's own kill, and a process that has gone is no error of the command's.
	out, err := h.over(fmt.Sprintf("kill -%d %d 2>&1 || [ ! -e /proc/%[2]d ]", sig, pid))
	if err != nil {
		return fmt.Errorf("kill %d: %w: %s", pid, err, out)
	}
	return nil
}

// processes gives the command lines of the machine's processes by their pids, without the kernel's own.
func (h *Host) processes() (map[int]string, error) {
	out, err := h.over("ps -ww -eo pid=,args=")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for line := range strings.Lines(out) {
		number, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("ps says %q", line)
		}
		if args = strings.TrimSpace(args); !strings.HasPrefix(args, "[") && !strings.HasPrefix(args, "ps -ww") {
			found[pid] = args
		}
	}
	return found, nil
}

// CgroupFiles reads control files of the cgroups of a name that are below the host's own, of either version of cgroups, by their paths.
func (h *Host) CgroupFiles(name string, files ...string) (map[string]string, error) {
	all, err := h.Cgroups()
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, dir := range all {
		if filepath.Base(dir) != name {
			continue
		}
		for _, file := range files {
			if raw, err := h.ReadFile(filepath.Join(dir, file)); err == nil { // each version has some of them, and cgroups come and go
				found[filepath.Join(dir, file)] = strings.TrimSpace(string(raw))
			}
		}
	}
	return found, nil
}
