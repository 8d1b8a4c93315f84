package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// parameters are what a container host sets and the kernel does not by itself.
var parameters = [...]struct{ key, value string }{
	{"vm.overcommit_memory", "1"},
	{"vm.panic_on_oom", "0"},
	{"vm.max_map_count", "262144"},
	{"kernel.panic", "-1"}, // end the VM at once, the host sees it
	{"kernel.panic_on_oops", "1"},
	{"kernel.pid_max", "4194304"},
	{"kernel.keys.root_maxkeys", "1000000"},
	{"kernel.keys.root_maxbytes", "25000000"},
	{"kernel.kptr_restrict", "1"},
	{"kernel.dmesg_restrict", "1"},
	{"fs.inotify.max_user_instances", "8192"},
	{"fs.inotify.max_user_watches", "524288"},
	{"fs.protected_symlinks", "1"},
	{"fs.protected_hardlinks", "1"},
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.core.somaxconn", "4096"},
}

// setParameters sets the kernel parameters and returns those it could not set.
func setParameters() []error {
	var errs []error
	for _, p := range parameters {
		file := filepath.Join("/proc/sys", strings.ReplaceAll(p.key, ".", "/"))
		if err := os.WriteFile(file, []byte(p.value), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", p.key, err))
		}
	}
	return errs
}
