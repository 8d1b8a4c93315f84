package net

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	"google.golang.org/protobuf/proto"
)

// FuzzRoute converts addresses and routes: they are refused, or are what they were when described again.
func FuzzRoute(f *testing.F) {
	f.Add("10.42.0.7", "32", "10.42.0.0/24", "10.42.0.1", "10.42.0.7", uint32(253), false)
	f.Add("fe80::1", "64", "", "::1", "", uint32(0), true)
	f.Add("::ffff:1.2.3.4", "33", "::ffff:1.2.3.4", "1.2.3.4", "x", uint32(1<<31), true)
	f.Add("1.2.3.4%eth0", "-1", "0.0.0.0/0", "", "::", uint32(0), false)
	f.Fuzz(func(t *testing.T, addr, mask, dest, gateway, source string, number uint32, v6 bool) {
		if n, err := address(&pb.IPAddress{Address: addr, Mask: mask}); err == nil {
			if ones, bits := n.Mask.Size(); bits != 8*len(n.IP) || ones > bits {
				t.Errorf("address %s/%s became %v", addr, mask, n)
			}
		}
		in := &pb.Route{Device: "eth0", Dest: dest, Gateway: gateway, Source: source, Scope: number % 256, Flags: number, Mtu: number}
		if v6 {
			in.Family = pb.IPFamily_v6
		}
		routes, err := desired([]*pb.Route{in, {Device: "eth0"}, in}, index)
		if err != nil {
			return
		}
		if len(routes) != 3 {
			t.Fatalf("%d routes of 3", len(routes))
		}
		name := func(int) string { return "eth0" }
		for _, r := range routes {
			if stale(r, routes) {
				t.Errorf("%v is wanted and stale", r)
			}
			once := described(r, name)
			again, err := route(once, index)
			if err != nil {
				t.Fatalf("route %v cannot be read back: %v", once, err)
			}
			if twice := described(again, name); !proto.Equal(once, twice) {
				t.Errorf("described (-once +twice):\n%s", cmp.Diff(once.String(), twice.String()))
			}
		}
	})
}
