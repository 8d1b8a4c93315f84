package netdev

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIsPodLink(t *testing.T) {
	for name, want := range map[string]bool{
		"nl0123abcd": true, "nlffffffff": true,
		"nodeless0": false, "nl": false, "nl0123abc": false, "nl0123abcg": false, "nlmon": false, "eth0": false,
	} {
		if got := isPodLink(name); got != want {
			t.Errorf("isPodLink(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestChains(t *testing.T) {
	var got []string
	for _, ch := range chains(netip.MustParsePrefix("10.42.0.0/16"), []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, true) {
		for _, rule := range ch.rules {
			got = append(got, ch.table+" "+ch.name+" "+strings.Join(rule, " "))
		}
	}
	want := []string{
		"nat NODELESS-POSTROUTING -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment nodeless: Pod to Pod -j RETURN",
		"nat NODELESS-POSTROUTING -s 10.42.0.0/16 -d 224.0.0.0/4 -m comment --comment nodeless: multicast -j RETURN",
		"nat NODELESS-POSTROUTING -s 10.42.0.0/16 -m comment --comment nodeless: Pods that leave the cluster -j MASQUERADE --random-fully",
		"filter NODELESS-FORWARD -s 10.42.0.0/16 -m comment --comment nodeless: from Pods -j ACCEPT",
		"filter NODELESS-FORWARD -d 10.42.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -m comment --comment nodeless: to Pods -j ACCEPT",
		"filter NODELESS-FORWARD -s 192.0.2.0/24 -d 10.42.0.0/16 -m comment --comment nodeless: allowed -j ACCEPT",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("chains (-want +got):\n%s", diff)
	}
}

func TestForwardingIsWrittenOnlyWhenOff(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "net/ipv4")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ip_forward")
	for _, before := range []string{"0\n", "1\n"} {
		if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := applySysctls(root); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(got)) != "1" {
			t.Errorf("ip_forward = %q, %v; want 1", got, err)
		}
		if before == "1\n" && string(got) != before {
			t.Error("a value that was right was written again")
		}
	}
}

func TestSharedTablesAreWidenedAndNeverNarrowed(t *testing.T) {
	root := t.TempDir()
	for path, before := range map[string]string{
		"net/ipv4/ip_forward": "1\n", "net/netfilter/nf_conntrack_max": "262144\n", "net/ipv4/neigh/default/gc_thresh2": "512\n", "net/ipv4/neigh/default/gc_thresh3": "100000\n",
	} {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := applySysctls(root); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, s := range settings() {
		raw, err := os.ReadFile(filepath.Join(root, s.path))
		if err != nil {
			t.Fatal(err)
		}
		got[filepath.Base(s.path)] = strings.TrimSpace(string(raw))
	}
	want := map[string]string{"ip_forward": "1", "nf_conntrack_max": "1048576", "gc_thresh2": "16384", "gc_thresh3": "100000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if err := os.RemoveAll(filepath.Join(root, "net/netfilter")); err != nil {
		t.Fatal(err)
	}
	if err := applySysctls(root); err != nil {
		t.Errorf("a kernel that does not let itself be told: %v", err)
	}
}

func TestValidate(t *testing.T) {
	good := Config{Gateway: netip.MustParseAddr("10.42.0.1"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16")}
	if err := good.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	for _, bad := range []Config{
		{},
		{Gateway: netip.MustParseAddr("10.99.0.1"), ClusterCIDR: good.ClusterCIDR},
		{Gateway: netip.MustParseAddr("fd00::1"), ClusterCIDR: netip.MustParsePrefix("fd00::/64")},
	} {
		if err := bad.Validate(); err == nil {
			t.Errorf("Validate(%+v) succeeded", bad)
		}
	}
}
