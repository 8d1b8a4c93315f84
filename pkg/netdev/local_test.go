package netdev

import (
	"net/netip"
	"testing"
)

func TestIsOwn(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "0.0.0.0": true, "::1": true, "::": true, "192.0.2.1": false, "2001:db8::1": false,
	} {
		if got, err := IsOwn(netip.MustParseAddr(addr)); err != nil || got != want {
			t.Errorf("IsOwn(%s) = %v, %v, want %v", addr, got, err, want)
		}
	}
}
