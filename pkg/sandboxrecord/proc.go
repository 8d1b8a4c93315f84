package sandboxrecord

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of Process.Ticks: what Linux calls USER_HZ, 100 on every machine that nodeless runs on.
const Tick = 10 * time.Millisecond

// Boot is the start of the process after the boot, to a Tick.
func (p Process) Boot() time.Duration { return time.Duration(p.Ticks) * Tick }

// Find looks for a process in proc, which is /proc. One that has ended and whose parent has not noticed is not alive, but
// its start is still there. One that is ending is alive until the last of its threads has gone, as its parent and pidfds see it: under load
// that of a microVM takes a second. Without a process both are zero.
func Find(proc fs.FS, pid int) (p Process, alive bool, err error) {
	name := strconv.Itoa(pid)
	raw, err := fs.ReadFile(proc, name+"/stat")
	if err != nil {
		// The file of a process that ends as it is read gives another error than that of none.
		if _, gone := fs.Stat(proc, name); errors.Is(gone, fs.ErrNotExist) {
			return Process{}, false, nil
		}
		return Process{}, false, fmt.Errorf("look for process %d: %w", pid, err)
	}
	// proc(5): the name, in parentheses, may hold anything; the state is the third field, the number of threads the twentieth and the start
	// the twenty-second. The first thread of a process is a zombie while others run.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	const state, threads, start = 3 - 3, 20 - 3, 22 - 3
	if len(fields) <= start {
		return Process{}, false, fmt.Errorf("look for process %d: its stat is %q", pid, raw)
	}
	ticks, err := strconv.ParseInt(fields[start], 10, 64)
	if err != nil {
		return Process{}, false, fmt.Errorf("look for process %d: its start: %w", pid, err)
	}
	ended := fields[state] == "X" || fields[state] == "Z" && (fields[threads] == "0" || fields[threads] == "1")
	return Process{PID: pid, Ticks: ticks}, !ended, nil
}

// Alive tells whether a process still runs.
func (p Process) Alive(proc fs.FS) (bool, error) {
	found, alive, err := Find(proc, p.PID)
	return alive && found == p, err
}

// BootID names the running boot; proc is /proc.
func BootID(proc fs.FS) (string, error) {
	raw, err := fs.ReadFile(proc, "sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
