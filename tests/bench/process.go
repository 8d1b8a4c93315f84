package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nodeless/nodeless/tests/testbed"
)

// process is one process of the measured host, memory in MB (10^6 bytes).
type process struct {
	pid      int
	role     string
	rss, pss float64
	ticks    float64 // CPU time used so far, in clock ticks
}

// clockTicks per second is 100 on every Linux the product runs on (USER_HZ, proc(5)).
const clockTicks = 100

// processesOf lists the processes that live in the PID namespace of process init, and in those made in there.
func processesOf(init int) ([]process, error) {
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid_for_children", init))
	if err != nil {
		return nil, fmt.Errorf("read pid namespace of %d: %w", init, err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, dir := range dirs {
		if !testbed.InPIDNamespace(dir, home) {
			continue
		}
		if p, ok := readProcess(dir); ok {
			found = append(found, p)
		}
	}
	return found, nil
}

// readProcess reports false for a process that ended meanwhile.
func readProcess(dir string) (process, bool) {
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil || len(cmdline) == 0 {
		return process{}, false
	}
	pid, _ := strconv.Atoi(filepath.Base(dir))
	p := process{pid: pid, role: role(strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"))}
	rollup, err := os.Open(dir + "/smaps_rollup")
	if err != nil {
		return process{}, false
	}
	defer rollup.Close()
	for s := bufio.NewScanner(rollup); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "Rss:":
			p.rss = kb * 1024 / 1e6
		case "Pss:":
			p.pss = kb * 1024 / 1e6
		}
	}
	p.ticks = cpuTicks(dir)
	return p, true
}

// cpuTicks is user and system time, fields 14 and 15 of stat (proc(5)).
func cpuTicks(dir string) float64 {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return user + system
}

// role names a process by its command line; packed programs are started through ld.so.
func role(argv []string) string {
	if len(argv) > 1 && (argv[1] == "containerd" || argv[1] == "server") { // first: their flags may name the others
		return argv[1]
	}
	all := strings.Join(argv, " ")
	for _, r := range []struct{ text, role string }{
		{"qemu-system-", "qemu"}, {"containerd-shim", "shim"}, {"nodeless-vmm", "vmm"}, {"virtiofsd", "virtiofsd"},
	} {
		if strings.Contains(all, r.text) {
			return r.role
		}
	}
	return filepath.Base(argv[0])
}

// sum adds up the processes of the given roles.
func sum(ps []process, value func(process) float64, roles ...string) float64 {
	total := 0.0
	for _, p := range ps {
		for _, r := range roles {
			if p.role == r {
				total += value(p)
			}
		}
	}
	return total
}

func rss(p process) float64   { return p.rss }
func pss(p process) float64   { return p.pss }
func ticks(p process) float64 { return p.ticks }
