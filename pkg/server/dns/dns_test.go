package dns_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nodeless/nodeless/pkg/server/dns"
)

func TestCorefile(t *testing.T) {
	cfg := dns.Config{Address: netip.MustParseAddr("10.42.0.1"), Port: 53, Domain: "cluster.local", Kubeconfig: "/data/my cred/dns.kubeconfig"}
	tests := []struct {
		golden    string
		upstreams []netip.Addr
	}{
		{golden: "airgap.corefile"},
		{golden: "upstreams.corefile", upstreams: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}},
	}
	for _, tt := range tests {
		t.Run(tt.golden, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", tt.golden))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), dns.Corefile(cfg, tt.upstreams)); diff != "" {
				t.Errorf("Corefile (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUpstreams(t *testing.T) {
	own := netip.MustParseAddr("10.42.0.1")
	tests := []struct {
		name, conf string
		want       []string
	}{
		{name: "usual", conf: "search x\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n", want: []string{"192.0.2.53", "2001:db8::53"}},
		{name: "stub of the host is left out", conf: "nameserver 127.0.0.53\nnameserver ::1\n"},
		{name: "own address is left out", conf: "nameserver 10.42.0.1\nnameserver 192.0.2.53", want: []string{"192.0.2.53"}},
		{name: "comments and nonsense", conf: "# nameserver 192.0.2.1\nnameserver\nnameserver x\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, a := range dns.Upstreams(tt.conf, own) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("upstreams (-want +got):\n%s", diff)
			}
		})
	}
}
