package net

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func index(name string) (int, error) {
	if name != "eth0" {
		return 0, errors.New("no such interface")
	}
	return 2, nil
}

func TestDesiredPutsOnLinkRoutesFirst(t *testing.T) {
	got, err := desired([]*pb.Route{
		{Gateway: "10.42.0.1", Device: "eth0"},
		{Dest: "10.42.0.1/32", Device: "eth0", Scope: unix.RT_SCOPE_LINK},
		{Dest: "10.43.0.10", Gateway: "10.42.0.1", Device: "eth0", Source: "10.42.0.7", Mtu: 1400},
	}, index)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Dst, Gw, Src string
		Scope, MTU   int
	}
	var rows []row
	for _, r := range got {
		rows = append(rows, row{r.Dst.String(), ip(r.Gw), ip(r.Src), int(r.Scope), r.MTU})
	}
	want := []row{
		{Dst: "10.42.0.1/32", Scope: unix.RT_SCOPE_LINK},
		{Dst: "0.0.0.0/0", Gw: "10.42.0.1"},
		{Dst: "10.43.0.10/32", Gw: "10.42.0.1", Src: "10.42.0.7", MTU: 1400},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func ip(i net.IP) string {
	if i == nil {
		return ""
	}
	return i.String()
}

func TestRoutesRoundTrip(t *testing.T) {
	in := []*pb.Route{
		{Dest: "10.42.0.1/32", Device: "eth0", Scope: unix.RT_SCOPE_LINK},
		{Gateway: "10.42.0.1", Device: "eth0"},
		{Dest: "fd00::/64", Device: "eth0", Family: pb.IPFamily_v6},
		{Gateway: "fd00::1", Device: "eth0", Family: pb.IPFamily_v6},
	}
	routes, err := desired(in, index)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, described(r, func(int) string { return "eth0" }).String())
	}
	var want []string
	for _, i := range []int{0, 2, 1, 3} { // those without a gateway come first
		want = append(want, in[i].String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestRouteFaultsNameTheRoute(t *testing.T) {
	for name, r := range map[string]*pb.Route{
		"unknown interface": {Dest: "10.0.0.0/8", Device: "eth9"},
		"bad destination":   {Dest: "ten", Device: "eth0"},
		"bad gateway":       {Gateway: "gate", Device: "eth0"},
		"bad source":        {Source: "me", Device: "eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := desired([]*pb.Route{r}, index); err == nil {
				t.Errorf("desired = %v, want an error", got)
			}
		})
	}
}

func TestStale(t *testing.T) {
	_, dst, _ := net.ParseCIDR("10.42.0.1/32")
	gw := net.ParseIP("10.42.0.1")
	want := []netlink.Route{{LinkIndex: 2, Dst: dst}, {LinkIndex: 2, Gw: gw, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}}
	for _, tc := range []struct {
		name string
		have netlink.Route
		want bool
	}{
		{name: "wanted", have: netlink.Route{LinkIndex: 2, Dst: dst, Type: unix.RTN_UNICAST}},
		{name: "wanted default without destination", have: netlink.Route{LinkIndex: 2, Gw: gw, Type: unix.RTN_UNICAST}},
		{name: "kernel's own", have: netlink.Route{LinkIndex: 2, Protocol: unix.RTPROT_KERNEL, Type: unix.RTN_UNICAST}},
		{name: "other gateway", have: netlink.Route{LinkIndex: 2, Gw: net.ParseIP("10.42.0.9"), Type: unix.RTN_UNICAST}, want: true},
		{name: "other interface", have: netlink.Route{LinkIndex: 3, Dst: dst, Type: unix.RTN_UNICAST}, want: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := stale(tc.have, want); got != tc.want {
				t.Errorf("stale = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAddress(t *testing.T) {
	for _, tc := range []struct{ addr, mask, want string }{
		{"10.42.0.7", "32", "10.42.0.7/32"},
		{"10.42.0.7", "24", "10.42.0.7/24"},
		{"fd00::7", "64", "fd00::7/64"},
		{"10.42.0.7", "33", ""},
		{"10.42.0.7", "", ""},
		{"nobody", "24", ""},
	} {
		got, err := address(&pb.IPAddress{Address: tc.addr, Mask: tc.mask})
		switch {
		case tc.want == "" && err == nil:
			t.Errorf("address(%s/%s) = %v, want an error", tc.addr, tc.mask, got)
		case tc.want != "" && (err != nil || got.String() != tc.want):
			t.Errorf("address(%s/%s) = %v, %v, want %s", tc.addr, tc.mask, got, err, tc.want)
		}
	}
}

func TestStableListsAgainWhatChangedOnTheWay(t *testing.T) {
	for _, tt := range []struct {
		name     string
		failures int
		want     error
	}{{"at rest", 0, nil}, {"changing", 3, nil}, {"never at rest", 1000, netlink.ErrDumpInterrupted}} {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			got, err := stable(func() ([]int, error) {
				if calls++; calls <= tt.failures {
					return nil, netlink.ErrDumpInterrupted
				}
				return []int{calls}, nil
			})
			if !errors.Is(err, tt.want) || tt.want == nil && (len(got) != 1 || got[0] != tt.failures+1) {
				t.Errorf("stable = %v, %v after %d calls, want the list after %d failures, %v", got, err, calls, tt.failures, tt.want)
			}
		})
	}
}
