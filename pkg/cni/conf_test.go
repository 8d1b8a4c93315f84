package cni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfList(t *testing.T) {
	got, err := ConfList(netip.MustParsePrefix("10.42.0.0/24"), netip.MustParseAddr("10.42.0.1"), "/d/agent/cni", DefaultMTU, "/b/aux/nft", false)
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "cniVersion": "1.1.0",
  "name": "nodeless",
  "plugins": [
    {
      "capabilities": {
        "bandwidth": true,
        "portMappings": false
      },
      "dataDir": "/d/agent/cni",
      "gateway": "10.42.0.1",
      "mtu": 1500,
      "nft": "/b/aux/nft",
      "podCIDR": "10.42.0.0/24",
      "type": "nodeless"
    }
  ]
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("ConfList (-want +got):\n%s", diff)
	}
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"no JSON", "{", "read network configuration"},
		{"nothing set", `{"name":"nodeless"}`, "podCIDR"},
		{"gateway elsewhere", `{"name":"n","podCIDR":"10.42.0.0/24","gateway":"10.43.0.1","dataDir":"/d"}`, "outside of podCIDR"},
		{"no room", `{"name":"n","podCIDR":"10.42.0.0/31","gateway":"10.42.0.1","dataDir":"/d"}`, "room for Pods"},
		{"no data folder", `{"name":"n","podCIDR":"10.42.0.0/24","gateway":"10.42.0.1"}`, "dataDir"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse([]byte(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parse(%s) = %v, want %q in it", tt.in, err, tt.want)
			}
		})
	}
}

func TestHostLinkNamesDiffer(t *testing.T) {
	a, b := HostLink("abc", "eth0"), HostLink("abd", "eth0")
	if a == b || len(a) != 10 {
		t.Errorf("HostLink = %s and %s, want two names of ten characters", a, b)
	}
}
