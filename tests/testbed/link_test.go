package testbed_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nodeless/nodeless/tests/testbed"
)

// TestLinkJoinsTwoHosts: who listens in one is reached from the other, by the cable's address and by one behind it, and not before.
func TestLinkJoinsTwoHosts(t *testing.T) {
	one, other := newHost(t), newHost(t)
	defer one.Close()
	defer other.Close()
	const behind = "192.0.2.1"
	if _, err := one.Exec(t.Context(), "ip", "addr", "add", behind+"/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	listen := func(addr string) net.Listener {
		t.Helper()
		netns, err := ns.GetNS(one.Path("/proc/1/ns/net"))
		if err != nil {
			t.Fatal(err)
		}
		defer netns.Close()
		var l net.Listener
		if err := netns.Do(func(ns.NetNS) error { l, err = net.Listen("tcp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := listen(":7")
	defer l.Close()
	reached := func(host string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := other.Dial(ctx, "tcp", net.JoinHostPort(host, "7"))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if err := reached(behind); err == nil {
		t.Errorf("%s is reached without a cable", behind)
	}
	if err := one.Link(other, "192.0.2.0/24"); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{testbed.LinkIP, behind} {
		if err := reached(host); err != nil {
			t.Errorf("reach %s from the other host: %v", host, err)
		}
	}
}
