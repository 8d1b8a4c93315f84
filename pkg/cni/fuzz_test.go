package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// FuzzConf is a network configuration: it is refused with a code that containerd knows, or it has room for Pods, an
// allocator takes it, and the result of it is one that CNI reads back.
func FuzzConf(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"nodeless","type":"nodeless","podCIDR":"10.42.0.0/24","gateway":"10.42.0.1","dataDir":"/d","mtu":1400}`), uint32(5))
	f.Add([]byte(`{"name":"n","podCIDR":"0.0.0.0/0","gateway":"255.255.255.255","dataDir":"d"}`), uint32(1<<31))
	f.Add([]byte(`{"name":"../..","podCIDR":"10.42.0.9/30","gateway":"10.42.0.8","dataDir":"/d","mtu":576}`), uint32(0))
	f.Add([]byte(`{"name":"n","podCIDR":"::ffff:10.42.0.0/120","gateway":"::ffff:10.42.0.1","dataDir":"/d","mtu":65535,"prevResult":{"x":[]},"cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]}`), uint32(9))
	f.Fuzz(func(t *testing.T, stdin []byte, n uint32) {
		conf, err := parse(stdin)
		if err != nil {
			var known *types.Error
			if !errors.As(err, &known) || known.Code == 0 {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		if capacity(conf) < 1 {
			t.Errorf("%s has room for %d Pods", conf.PodCIDR, capacity(conf))
		}
		set, err := rangeSet(conf)
		if err != nil {
			t.Fatalf("accepted, and no range of addresses: %v", err)
		}
		if got := (*set)[0]; !got.Gateway.Equal(conf.Gateway.AsSlice()) || got.RangeStart.Equal(got.Gateway) && got.RangeStart.Equal(got.RangeEnd) {
			t.Errorf("%s with gateway %s gives the addresses %s to %s", conf.PodCIDR, conf.Gateway, got.RangeStart, got.RangeEnd)
		}
		again, err := ConfList(conf.PodCIDR, conf.Gateway, conf.DataDir, conf.MTU, conf.NFT, false)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var list struct{ Plugins []json.RawMessage }
		if err := json.Unmarshal(again, &list); err != nil || len(list.Plugins) != 1 {
			t.Fatalf("%s: %v", again, err)
		}
		addr := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		made := link{host: net.Interface{Name: "nl1"}, pod: net.Interface{Name: "eth0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
		var out bytes.Buffer
		if err := result(conf, made, "/proc/1/ns/net", addr).PrintTo(&out); err != nil {
			t.Fatal(err)
		}
		back, err := current.NewResult(out.Bytes())
		if err != nil {
			t.Fatalf("result %s: %v", out.Bytes(), err)
		}
		got, err := current.GetResult(back)
		if err != nil || len(got.IPs) != 1 || !got.IPs[0].Address.IP.Equal(addr.AsSlice()) || len(got.Interfaces) != 2 {
			t.Errorf("result %s reads %+v, %v", out.Bytes(), got, err)
		}
	})
}
