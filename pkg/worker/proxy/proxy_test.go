package proxy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nodeless/nodeless/pkg/worker/proxy"
)

// TestWhereNodePortsAreOpen: at the Node's own address always, and at what the operator has named.
func TestWhereNodePortsAreOpen(t *testing.T) {
	for want, at := range map[string][]netip.Prefix{
		"--nodeport-addresses=primary":              nil,
		"--nodeport-addresses=primary,0.0.0.0/0":    {netip.MustParsePrefix("0.0.0.0/0")},
		"--nodeport-addresses=primary,192.0.2.0/24": {netip.MustParsePrefix("192.0.2.0/24")},
	} {
		if args := proxy.Args(proxy.Config{NodePortsAt: at}); !slices.Contains(args, want) {
			t.Errorf("arguments for %v are %q, want %s", at, args, want)
		}
	}
}
