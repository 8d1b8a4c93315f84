package preflight

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// hardening is what a host should be where Pods of strangers share it (docs/security.md). None of it keeps a server from working,
// so Require does not look.
func hardening(h Host, _ Settings) []Result {
	return slices.Concat(checkThreads(h), checkCPUFlaws(h), checkCoreDumps(h), checkVolumes(h))
}

// checkThreads: two threads of one core see each other's caches and buffers.
func checkThreads(h Host) []Result {
	const name = "SMT"
	active, err := fs.ReadFile(h.Sys, "devices/system/cpu/smt/active")
	switch {
	case err != nil:
		return []Result{pass(name, "the kernel tells of none")}
	case strings.TrimSpace(string(active)) == "1":
		return []Result{warn(name, "on: two Pods may run on one core at a time",
			"where Pods of strangers share the host, turn it off: nosmt on the kernel's command line, or echo off > /sys/devices/system/cpu/smt/control")}
	}
	return []Result{pass(name, "off")}
}

// checkCPUFlaws reads what the kernel knows of the CPU's flaws, which microcode and mitigations close.
func checkCPUFlaws(h Host) []Result {
	const name, dir = "CPU flaws", "devices/system/cpu/vulnerabilities"
	entries, err := fs.ReadDir(h.Sys, dir)
	if err != nil {
		return []Result{warn(name, "the kernel does not tell", "boot a kernel that has /sys/"+dir)}
	}
	var open, threads []string
	for _, e := range entries {
		text, err := fs.ReadFile(h.Sys, dir+"/"+e.Name())
		switch state := strings.TrimSpace(string(text)); {
		case err != nil, strings.HasPrefix(state, "Vulnerable"), strings.Contains(state, "no microcode"):
			open = append(open, e.Name())
		case strings.Contains(state, "SMT vulnerable"):
			threads = append(threads, e.Name())
		}
	}
	switch {
	case len(open) > 0:
		return []Result{warn(name, "open: "+strings.Join(open, ", "),
			"install the CPU's microcode (intel-microcode, amd64-microcode), boot the newest kernel of your distribution without mitigations=off")}
	case len(threads) > 0:
		return []Result{warn(name, "open between threads of a core: "+strings.Join(threads, ", "), "turn SMT off: nosmt on the kernel's command line")}
	}
	return []Result{pass(name, fmt.Sprintf("%d known to the kernel, none open", len(entries)))}
}

// checkCoreDumps: the kernel hands dumps to a program whatever the limit of the service says.
func checkCoreDumps(h Host) []Result {
	const name = "core dumps"
	data, err := fs.ReadFile(h.Proc, "sys/kernel/core_pattern")
	if err != nil {
		return []Result{pass(name, "the kernel makes none")}
	}
	pattern := strings.TrimSpace(string(data))
	program, piped := strings.CutPrefix(pattern, "|")
	switch {
	case !piped:
		return []Result{pass(name, "files, which the service's limit of 0 forbids")}
	case strings.Contains(program, "systemd-coredump"):
		return []Result{pass(name, "go to systemd-coredump, which keeps none where the limit is 0")}
	}
	program, _, _ = strings.Cut(program, " ")
	return []Result{warn(name, "go to "+program, "make sure that it keeps none of nodeless or QEMU, which hold keys and guests' memory; or sysctl kernel.core_pattern=core")}
}

// checkVolumes: who takes over a virtiofsd that is root has root's capabilities for the Pod's volumes, and is in the way of one flaw less.
func checkVolumes(h Host) []Result {
	const name = "volumes"
	if h.Volumes == nil || h.Euid != 0 {
		return nil
	}
	if err := h.Volumes(); err != nil {
		return []Result{warn(name, "virtiofsd has to be root: "+err.Error(),
			"boot Linux 6.3 or newer, keep the data dir and volumes on ext4, XFS, btrfs or tmpfs, mount nothing over parts of /proc, and allow user namespaces (sysctl user.max_user_namespaces)")}
	}
	return []Result{pass(name, "virtiofsd is nobody of the host's")}
}
