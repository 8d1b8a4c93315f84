package containerd

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hasSysResource tells whether the process may lower OOM scores; status is /proc/self/status.
func hasSysResource(status string) bool {
	raw, err := os.ReadFile(status)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && set&(1<<unix.CAP_SYS_RESOURCE) != 0
		}
	}
	return false
}
