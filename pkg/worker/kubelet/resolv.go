package kubelet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// resolvConf chooses what Pods get as the host's resolver configuration: the host's own file if it names a
// server that a Pod can reach, systemd-resolved's if that does, else an empty one that is written to own.
func resolvConf(host, own string) (string, error) {
	for _, path := range []string{host, "/run/systemd/resolve/resolv.conf"} {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read resolver configuration: %w", err)
		}
		if hasReachableServer(string(content)) {
			return path, nil
		}
	}
	if err := atomicfile.Write(own, []byte("# the host names no server that Pods could reach\n"), 0o644); err != nil {
		return "", fmt.Errorf("write resolver configuration: %w", err)
	}
	return own, nil
}

// hasReachableServer tells whether a nameserver line holds an address that is not the host's loopback, which would
// be the Pod's own.
func hasReachableServer(content string) bool {
	for _, line := range strings.Split(content, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err == nil && !addr.IsLoopback() && !addr.IsUnspecified() {
			return true
		}
	}
	return false
}
