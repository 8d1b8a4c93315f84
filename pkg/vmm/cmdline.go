package vmm

import (
	"fmt"
	"strings"
)

// kernelHz is CONFIG_HZ of the bundled guest kernel; loops per jiffy follow from it.
const kernelHz = 250

// KernelCommandLine turns what Kata asks for into what the guest kernel gets: parameters about a root
// disk and a console that do not exist are dropped, ours come first, so that Kata's and the operator's
// remain and win. vcpus are as many as the guest brings up at boot.
func KernelCommandLine(kata string, vcpus int, cfg HostConfig) string {
	params := []string{"console=ttyS0", "8250.nr_uarts=1", "panic=-1", "cryptomgr.notests", "audit=0", "apparmor=0",
		"random.trust_cpu=on", "no_timer_check", "memhp_default_state=online"}
	params = append(params, fmt.Sprintf("maxcpus=%d", vcpus))
	if !cfg.Debug {
		params = append(params, "quiet", "loglevel=1")
	}
	if cfg.Accel == AccelTCG {
		params = append(params, tcgParams(cfg.TSCKHz)...)
	}
	have := map[string]bool{}
	for _, p := range params {
		have[p] = true
	}
	for _, p := range strings.Fields(kata) {
		if !have[p] && !senseless(p, cfg.Debug) {
			params = append(params, p)
			have[p] = true
		}
	}
	return strings.Join(params, " ")
}

// tcgParams make an emulated boot bearable. They switch protections off, so they must never reach a
// guest on KVM.
//
// init_on_alloc stays on: programs in volumes crash without it. The emulator keeps the code it has translated until it sees
// the guest write to the page; it does not see virtiofsd fill a page that once held other code. A page cleared
// by the guest when it is allocated holds no translated code any more.
func tcgParams(tscKHz uint64) []string {
	params := []string{"mitigations=off", "nokaslr", "init_on_alloc=1", "nowatchdog", "rcupdate.rcu_expedited=1", "numa=off"}
	if tscKHz > 0 {
		params = append(params, fmt.Sprintf("tsc_early_khz=%d", tscKHz), "tsc=reliable",
			fmt.Sprintf("lpj=%d", tscKHz*1000/kernelHz))
	}
	return params
}

func senseless(p string, debug bool) bool {
	key, _, _ := strings.Cut(p, "=")
	switch key {
	case "root", "rootflags", "rootfstype", "ro", "rw", "systemd.unit", "systemd.mask", "systemd.log_target":
		return true // the initrd is the whole system
	case "console", "panic":
		return true // ours: the log is on ttyS0, and a panic ends QEMU at once
	case "noreplace-smp":
		return true
	case "quiet":
		return debug
	}
	return false
}
