package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/worker/network"
	"github.com/nodeless/nodeless/tests/attack"
)

func hostLink(p pod) string { return cni.HostLink(p.id, "eth0") }

func hostNS(t *testing.T) ns.NetNS {
	t.Helper()
	here, err := ns.GetCurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	return here
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// refused is how an attack ends that got no answer.
func refused(err error) attack.Outcome {
	if err == nil {
		return attack.Succeeded
	}
	return attack.Refused
}

// TestAttackSpoofing: a Pod sends in the name of another.
func TestAttackSpoofing(t *testing.T) {
	h := newHost(t, podCIDR)
	a, b, c := h.mustAdd("pod-a"), h.mustAdd("pod-b"), h.mustAdd("pod-c")
	outside := newNeighbour(t)
	w := newWire(t, a)
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, target := range []struct {
		name  string
		space ns.NetNS
		addr  netip.Addr
	}{{"another Pod", c.ns, c.addr}, {"the host", hostNS(t), gateway}, {"a neighbour of the host", outside, neighbourAddr}} {
		port := uint16(9000)
		if target.addr == gateway {
			port = 53
		}
		e := listen(t, target.space, at(target.addr, port))
		w.send(w.udp(w.mac, at(a.addr, 4000), at(target.addr, port)))
		if n := e.heard(t); n != 1 {
			t.Fatalf("%s hears %d datagrams of an honest Pod, want 1", target.name, n)
		}
		for _, spoof := range []struct {
			name string
			mac  net.HardwareAddr
			from netip.Addr
		}{
			{"the address of another Pod", w.mac, b.addr},
			{"an address of nobody", w.mac, netip.MustParseAddr("10.42.0.200")},
			{"the gateway's address", w.mac, gateway},
			{"the neighbour's address", w.mac, neighbourAddr},
			{"another hardware address", other, a.addr},
		} {
			attack.Try(t, "T3", fmt.Sprintf("%s hears a Pod with %s", target.name, spoof.name), func(t *testing.T) attack.Outcome {
				w.t = t
				for source := range uint16(10) {
					w.send(w.udp(spoof.mac, at(spoof.from, 4000+source), at(target.addr, port)))
				}
				if n := e.heard(t); n > 0 {
					return attack.Succeeded
				}
				return attack.Contained
			})
		}
		w.t = t
	}
}

// TestAttackHostPorts: a Pod looks for what listens on its host.
func TestAttackHostPorts(t *testing.T) {
	h := newHostWith(t, podCIDR, netdev.Guard{Services: services, APIPort: apiPort, Limits: netdev.DefaultLimits(), HostPorts: []string{"5432/tcp"}})
	p := h.mustAdd("pod-a")
	newNeighbour(t)
	all := netip.IPv4Unspecified()
	here := hostNS(t)
	hello(t, here, at(all, 22), at(all, 53), at(all, 2379), at(all, 5432), at(all, apiPort), at(all, 9100), at(all, 10250), at(all, 10257))
	translate(t, at(netip.MustParseAddr("10.43.0.7"), 80), at(hostAddr, 10250))

	for _, to := range []netip.AddrPort{at(gateway, 53), at(gateway, apiPort), at(hostAddr, apiPort), at(gateway, 5432)} {
		if err := reaches(p.ns, to); err != nil {
			t.Errorf("a Pod does not reach %s: %v", to, err)
		}
	}
	ping(t, p.ns, gateway)
	ping(t, p.ns, hostAddr)
	for what, to := range map[string]netip.AddrPort{
		"the host's ssh":                            at(gateway, 22),
		"the host's ssh by its address":             at(hostAddr, 22),
		"a name server of the host":                 at(hostAddr, 53),
		"the datastore":                             at(gateway, 2379),
		"metrics of the host":                       at(hostAddr, 9100),
		"the kubelet":                               at(gateway, 10250),
		"the controller-manager":                    at(gateway, 10257),
		"the kubelet by a Service that leads to it": at(netip.MustParseAddr("10.43.0.7"), 80),
	} {
		attack.Try(t, "T3", "a Pod connects to "+what, func(t *testing.T) attack.Outcome {
			return refused(reaches(p.ns, to))
		})
	}
	e := listen(t, here, at(all, 5353))
	loopback := listen(t, here, at(netip.MustParseAddr("127.0.0.1"), 5354))
	attack.Try(t, "T3", "a Pod sends datagrams to the host's loopback", func(t *testing.T) attack.Outcome {
		w := newWire(t, p)
		w.send(w.udp(w.mac, at(p.addr, 4000), at(netip.MustParseAddr("127.0.0.1"), 5354)))
		if loopback.heard(t) > 0 {
			return attack.Succeeded
		}
		return attack.Refused
	})
	attack.Try(t, "T3", "a Pod sends datagrams to the host", func(t *testing.T) attack.Outcome {
		w := newWire(t, p)
		w.send(w.udp(w.mac, at(p.addr, 4000), at(gateway, 5353)))
		if e.heard(t) > 0 {
			return attack.Succeeded
		}
		return attack.Refused
	})
}

// TestAttackNodePorts: node ports are open at the host's own addresses, for Pods and neighbours; no other port is, and nothing of the host
// by one.
func TestAttackNodePorts(t *testing.T) {
	h := newHost(t, podCIDR)
	p, stranger := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	outside, here := newNeighbour(t), hostNS(t)
	hello(t, stranger.ns, at(stranger.addr, 80))
	all, loopback := netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1")
	hello(t, here, at(all, 22), at(all, 30081), at(all, 10250))
	// What kube-proxy does where all addresses of the host have node ports: 30080 is a stranger's, 30082 leads to the kubelet.
	nft(t, fmt.Sprintf("table ip test { map ports { type inet_service : ipv4_addr . inet_service; elements = { 30080 : %s . 80, 30082 : %s . 10250 }; }; "+
		"chain open { fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto tcp dnat ip to tcp dport map @ports; }; "+
		"chain in { type nat hook prerouting priority dstnat; jump open; }; chain out { type nat hook output priority -100; jump open; }; }\n", stranger.addr, hostAddr))
	t.Cleanup(func() { nft(t, "table ip test\ndelete table ip test\n") })

	for from, space := range map[string]ns.NetNS{"a neighbour": outside, "the host": here, "a Pod": p.ns} {
		if err := reaches(space, at(hostAddr, 30080)); err != nil {
			t.Errorf("%s does not reach a node port at the host's address: %v", from, err)
		}
	}
	if err := reaches(p.ns, at(gateway, 30080)); err != nil {
		t.Errorf("a Pod does not reach a node port at the gateway: %v", err)
	}
	for what, to := range map[string]netip.AddrPort{
		"a port of the host that is no node port":        at(hostAddr, 22),
		"a program of the host in the node ports' range": at(hostAddr, 30081),
		"the same at the gateway":                        at(gateway, 30081),
		"the kubelet by a node port":                     at(hostAddr, 30082),
		"the kubelet by a node port at the gateway":      at(gateway, 30082),
		"a node port at the host's loopback":             at(loopback, 30080),
	} {
		attack.Try(t, "T3", "a Pod connects to "+what, func(t *testing.T) attack.Outcome {
			return refused(reaches(p.ns, to))
		})
	}
	attack.Try(t, "T3", "a Pod asks a node port with a neighbour's address", func(t *testing.T) attack.Outcome {
		e, w := listen(t, stranger.ns, at(stranger.addr, 80)), newWire(t, p)
		nft(t, fmt.Sprintf("add rule ip test open fib daddr type local udp dport 30080 dnat ip to %s:80\n", stranger.addr))
		if w.send(w.udp(w.mac, at(p.addr, 4000), at(hostAddr, 30080))); e.heard(t) == 0 {
			t.Fatal("nothing comes with the Pod's own address either")
		}
		if w.send(w.udp(w.mac, at(neighbourAddr, 4001), at(hostAddr, 30080))); e.heard(t) > 0 {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestNodePortsAndDeniedRanges: a Pod sends nothing to a range that it does not reach.
// So it does not answer who asks a node port from there.
func TestNodePortsAndDeniedRanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		denied []netip.Prefix
		hidden bool // the client's address is not seen by the Pod
		want   bool
	}{
		{"a client of no such range", nil, false, true},
		{"a client of no such range whose address is hidden", nil, true, true},
		{"a client of such a range", []netip.Prefix{netip.PrefixFrom(neighbourAddr, 32)}, false, false},
		{"a client of such a range whose address is hidden", []netip.Prefix{netip.PrefixFrom(neighbourAddr, 32)}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostWith(t, podCIDR, netdev.Guard{Services: services, APIPort: apiPort, Denied: tt.denied, Limits: netdev.DefaultLimits()})
			p, outside, node := h.mustAdd("pod-a"), newNeighbour(t), at(hostAddr, 30080)
			hello(t, p.ns, at(p.addr, 80))
			translate(t, node, at(p.addr, 80))
			if tt.hidden {
				nft(t, "table ip test { chain back { type nat hook postrouting priority srcnat; ct status dnat masquerade; }; }\n")
			}
			if err := reaches(outside, node); (err == nil) != tt.want {
				t.Errorf("the client is answered: %v, want it answered: %t", err, tt.want)
			}
		})
	}
}

// TestAttackMetadata: a Pod asks the cloud for the secrets of its host, itself or by a Service that somebody has pointed there.
func TestAttackMetadata(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	outside, here := newNeighbour(t), hostNS(t)
	for _, addr := range metadataAddrs {
		hello(t, outside, at(addr, 80))
		if err := reaches(here, at(addr, 80)); err != nil {
			t.Fatalf("the host does not reach %s: %v", addr, err)
		}
		attack.Try(t, "T3", "a Pod asks "+addr.String(), func(t *testing.T) attack.Outcome {
			return refused(reaches(p.ns, at(addr, 80)))
		})
	}
	service, node := at(netip.MustParseAddr("10.43.0.9"), 80), at(hostAddr, 30080)
	t.Run("by a Service", func(t *testing.T) {
		translate(t, service, at(metadataAddrs[1], 80))
		attack.Try(t, "T3", "a Pod asks for metadata by a Service", func(t *testing.T) attack.Outcome {
			return refused(reaches(p.ns, service))
		})
	})
	t.Run("by a node port", func(t *testing.T) {
		translate(t, node, at(metadataAddrs[1], 80))
		nft(t, "table ip test { chain back { type nat hook postrouting priority srcnat; ct status dnat masquerade; }; }\n")
		attack.Try(t, "T3", "a neighbour asks for metadata by a node port", func(t *testing.T) attack.Outcome {
			return refused(reaches(outside, node))
		})
	})
}

// TestAttackNeighbour: a host of the same network sends what it has for Pods to this host, which forwards.
func TestAttackNeighbour(t *testing.T) {
	for _, tt := range []struct{ name, policy string }{{"a host that forwards", "ACCEPT"}, {"a host that drops", "DROP"}} {
		t.Run(tt.name, func(t *testing.T) { attackFromOutside(t, tt.policy) })
	}
}

func attackFromOutside(t *testing.T, policy string) {
	h := newHost(t, podCIDR)
	if out, err := exec.Command("iptables", "-P", "FORWARD", policy).CombinedOutput(); err != nil {
		t.Fatalf("iptables: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("iptables", "-P", "FORWARD", "ACCEPT").Run() }) //nolint:errcheck // the namespace goes anyway
	p, other := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	outside, here := newNeighbour(t), hostNS(t)
	hello(t, p.ns, at(p.addr, 80))
	hello(t, here, at(gateway, 53))
	hello(t, outside, at(neighbourAddr, 80))
	service, node, dns := at(netip.MustParseAddr("10.43.0.9"), 80), at(hostAddr, 30080), at(netip.MustParseAddr("10.43.0.10"), 53)
	nft(t, fmt.Sprintf("table ip test { chain services { type nat hook prerouting priority dstnat; ip daddr . tcp dport { %s . 80, %s . 30080 } dnat to %s:80; "+
		"ip daddr %s tcp dport 53 dnat to %s:53; }; }\n", service.Addr(), node.Addr(), p.addr, dns.Addr(), gateway))
	t.Cleanup(func() { nft(t, "table ip test\ndelete table ip test\n") })

	for from, space := range map[string]ns.NetNS{"another Pod": other.ns, "the host": here} {
		if err := reaches(space, at(p.addr, 80)); err != nil {
			t.Errorf("%s does not reach a Pod: %v", from, err)
		}
	}
	for what, to := range map[string]netip.AddrPort{"a Service": service, "the name server's Service": dns} {
		if err := reaches(other.ns, to); err != nil {
			t.Errorf("a Pod does not reach %s: %v", what, err)
		}
	}
	if err := reaches(outside, node); err != nil {
		t.Errorf("a neighbour does not reach a node port: %v", err)
	}
	if err := reaches(p.ns, at(neighbourAddr, 80)); err != nil {
		t.Errorf("a Pod does not reach a neighbour: %v", err)
	}
	for what, to := range map[string]netip.AddrPort{"a Pod": at(p.addr, 80), "a ClusterIP": service, "the cluster's name server": at(gateway, 53), "its ClusterIP": dns} {
		attack.Try(t, "T3", "a neighbour connects to "+what, func(t *testing.T) attack.Outcome {
			return refused(reaches(outside, to))
		})
	}
	if t.Failed() {
		out, _ := exec.Command("nft", "list", "table", "inet", "nodeless").CombinedOutput()
		t.Logf("%s", out)
	}
}

// TestAllowedNeighbour: an operator who routes Pods can say so.
func TestAllowedNeighbour(t *testing.T) {
	h := newHostWith(t, podCIDR, netdev.Guard{Services: services, AllowFrom: []netip.Prefix{netip.PrefixFrom(neighbourAddr, 32)}})
	p := h.mustAdd("pod-a")
	outside := newNeighbour(t)
	hello(t, p.ns, at(p.addr, 80))
	service := at(netip.MustParseAddr("10.43.0.9"), 80)
	translate(t, service, at(p.addr, 80))
	for _, to := range []netip.AddrPort{at(p.addr, 80), service} {
		if err := reaches(outside, to); err != nil {
			t.Errorf("an allowed neighbour does not reach %s: %v", to, err)
		}
	}
}

// TestAttackNeighbourTable: the kernel has one table of neighbours for all links and all namespaces.
func TestAttackNeighbourTable(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	ping(t, p.ns, gateway)
	attack.Try(t, "T13", "a Pod asks for its gateway in the name of 2000 others", func(t *testing.T) attack.Outcome {
		w := newWire(t, p)
		for i := range 2000 {
			w.send(w.arp(netip.AddrFrom4([4]byte{10, 42, byte(10 + i/250), byte(1 + i%250)})))
		}
		ping(t, p.ns, gateway)
		link, err := netlink.LinkByName(hostLink(p))
		if err != nil {
			t.Fatal(err)
		}
		known, err := netlink.NeighList(link.Attrs().Index, unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		if len(known) > 2 {
			t.Logf("the host knows %d neighbours by the Pod's link", len(known))
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestAttackNeighbourTableByScan: what a Pod sends to addresses of the host's network has the host look for them.
func TestAttackNeighbourTableByScan(t *testing.T) {
	h := newHostWith(t, podCIDR, netdev.Guard{Limits: netdev.Limits{NewFlows: 10}})
	p := h.mustAdd("pod-a")
	newNeighbour(t)
	w := newWire(t, p)
	for name, frame := range map[string]func(to netip.Addr) []byte{
		"datagrams":                     func(to netip.Addr) []byte { return w.udp(w.mac, at(p.addr, 4000), at(to, 9)) },
		"what belongs to no connection": func(to netip.Addr) []byte { return w.packet(w.mac, p.addr, to, unix.IPPROTO_TCP, make([]byte, 20)) },
	} {
		attack.Try(t, "T13", "a Pod sends "+name+" to all addresses of the host's network", func(t *testing.T) attack.Outcome {
			for last := range byte(240) {
				w.send(frame(netip.AddrFrom4([4]byte{192, 0, 2, 3 + last})))
			}
			uplink, err := netlink.LinkByName("uplink")
			if err != nil {
				t.Fatal(err)
			}
			sought, err := netlink.NeighList(uplink.Attrs().Index, unix.AF_INET)
			if err != nil {
				t.Fatal(err)
			}
			if len(sought) > 5*10+20 {
				t.Logf("the host looks for %d neighbours", len(sought))
				return attack.Succeeded
			}
			return attack.Contained
		})
	}
}

// tracked counts the connections that the kernel tracks of an address.
func tracked(t *testing.T, addr netip.Addr) (n int) {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if f.Forward.SrcIP.Equal(addr.AsSlice()) || f.Forward.DstIP.Equal(addr.AsSlice()) {
			n++
		}
	}
	return n
}

// TestAttackFlows: the kernel has one table of tracked connections.
func TestAttackFlows(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits netdev.Limits
		most   int
	}{
		{"by many open flows", netdev.Limits{Flows: 100}, 100},
		{"by many open flows in shares", netdev.Limits{Flows: 600}, 600},
		{"by many new flows", netdev.Limits{NewFlows: 20}, 5*20 + 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostWith(t, podCIDR, netdev.Guard{Limits: tt.limits})
			a, b, c := h.mustAdd("pod-a"), h.mustAdd("pod-b"), h.mustAdd("pod-c")
			for _, p := range []pod{a, b, c} {
				if err := netdev.ForgetFlows(p.addr); err != nil { // of tests before
					t.Fatal(err)
				}
			}
			hello(t, b.ns, at(b.addr, 80))
			listen(t, b.ns, at(b.addr, 9000))
			attack.Try(t, "T13", "a Pod fills the table of connections "+tt.name, func(t *testing.T) attack.Outcome {
				w := newWire(t, a)
				for port := range uint16(1000) {
					w.send(w.udp(w.mac, at(a.addr, 10000+port), at(b.addr, 9000)))
				}
				if n := tracked(t, a.addr); n > tt.most || n < tt.most/2 {
					t.Logf("%d connections of the Pod are tracked, want up to %d", n, tt.most)
					return attack.Succeeded
				}
				if err := reaches(c.ns, at(b.addr, 80)); err != nil {
					t.Errorf("another Pod opens no connection: %v", err)
				}
				return attack.Contained
			})
			h.del(a.id, a.ns.Path())
			if n := tracked(t, a.addr); n > 0 {
				t.Errorf("after DEL %d connections of the address are tracked", n)
			}
			if n := tracked(t, c.addr); tt.limits.Flows > 0 && n == 0 {
				t.Error("DEL of a Pod has taken the connections of another")
			}
		})
	}
}

// TestAttackCalls: a Pod keeps connections open to the server, of which each costs it memory and a file.
func TestAttackCalls(t *testing.T) {
	const bound = 256
	h := newHost(t, podCIDR)
	p, other := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	server := at(gateway, apiPort)
	var l net.Listener
	within(t, hostNS(t), func() (err error) {
		l, err = net.Listen("tcp4", server.String())
		return err
	})
	defer l.Close()
	open := func(from pod) (c net.Conn, err error) {
		err = from.ns.Do(func(ns.NetNS) (err error) {
			c, err = net.DialTimeout("tcp4", server.String(), 300*time.Millisecond)
			return err
		})
		return c, err
	}
	attack.Try(t, "T13", "hold connections to the server without end", func(t *testing.T) attack.Outcome {
		for n := range bound + 1 {
			c, err := open(p)
			if err == nil {
				defer c.Close()
				continue
			}
			if n < bound {
				t.Errorf("number %d: %v, want %d", n+1, err, bound)
			}
			if c, err = open(other); err != nil {
				t.Errorf("another Pod: %v", err)
				return attack.Refused
			}
			c.Close()
			return attack.Refused
		}
		return attack.Succeeded
	})
}

func TestAttackPackets(t *testing.T) {
	h := newHostWith(t, podCIDR, netdev.Guard{Limits: netdev.Limits{Packets: 500}})
	a, b := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	e := listen(t, b.ns, at(b.addr, 9000))
	attack.Try(t, "T13", "a Pod sends more packets than it may", func(t *testing.T) attack.Outcome {
		w := newWire(t, a)
		begin := time.Now()
		for range 5000 {
			w.send(w.udp(w.mac, at(a.addr, 4000), at(b.addr, 9000)))
		}
		most := 500 + int(500*time.Since(begin).Seconds()) + 50
		if n := e.heard(t); n > most || n == 0 {
			t.Logf("%d packets arrived, want up to %d", n, most)
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestAttackAddressReuse: who still talks to the address of a Pod that is gone reaches nobody else.
func TestAttackAddressReuse(t *testing.T) {
	h := newHost(t, netip.MustParsePrefix("10.42.0.0/29"))
	var pods []pod
	for i := range 5 {
		pods = append(pods, h.mustAdd(fmt.Sprintf("pod-%d", i)))
	}
	first, last := pods[0], pods[4]
	h.del(last.id, last.ns.Path())
	time.Sleep(10 * time.Millisecond) // files of one moment have one age
	h.del(first.id, first.ns.Path())
	attack.Try(t, "T23", "a new Pod gets the address of one that has just gone", func(t *testing.T) attack.Outcome {
		next := h.mustAdd("pod-next")
		if next.addr != last.addr {
			t.Logf("it got %s, want %s, which has rested longest", next.addr, last.addr)
			return attack.Succeeded
		}
		return attack.Refused
	})
}

// TestAttackAddressOfNobody: what is sent to a Pod that has gone leaves the host, where somebody answers for it.
func TestAttackAddressOfNobody(t *testing.T) {
	h := newHost(t, podCIDR)
	p, gone := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	h.del(gone.id, gone.ns.Path())
	outside, here := newNeighbour(t), hostNS(t)
	addRoute(t, "uplink", netip.MustParsePrefix("0.0.0.0/0"), neighbourAddr)
	within(t, outside, func() error {
		setAddress(t, "eth0", gone.addr, 32)
		addRoute(t, "eth0", netip.PrefixFrom(p.addr, 32), hostAddr)
		return nil
	})
	hello(t, outside, at(gone.addr, 80), at(neighbourAddr, 80))
	for who, space := range map[string]ns.NetNS{"a Pod": p.ns, "the host": here} {
		if err := reaches(space, at(neighbourAddr, 80)); err != nil {
			t.Errorf("%s does not reach the neighbour: %v", who, err)
		}
		attack.Try(t, "T23", "a neighbour answers "+who+" for a Pod that has gone", func(t *testing.T) attack.Outcome {
			return refused(reaches(space, at(gone.addr, 80)))
		})
	}
}

// TestAttackFlushedRules: the rules are gone, by whatever hand.
func TestAttackFlushedRules(t *testing.T) {
	h := newHost(t, podCIDR)
	h.mustAdd("pod-a")
	nft(t, "flush ruleset\n")
	attack.Try(t, "T3", "a Pod starts on a host whose rules are gone", func(t *testing.T) attack.Outcome {
		_, err := h.add("pod-b")
		if err == nil || !strings.Contains(err.Error(), netdev.ErrNoTable.Error()) {
			t.Errorf("ADD without rules: %v, want %q", err, netdev.ErrNoTable)
		}
		return refused(err)
	})
}

// TestAttackWhileRulesAreSetAgain: the server of the host sees that its rules are gone.
func TestAttackWhileRulesAreSetAgain(t *testing.T) {
	h := newHost(t, podCIDR)
	serve := network.New(network.Config{RunDir: t.TempDir(), ClusterCIDR: cluster, PodCIDR: podCIDR, ServiceCIDR: services,
		ConfDir: t.TempDir(), DataDir: h.dataDir, Guard: h.net.Guard}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if err := serve.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	p := h.mustAdd("pod-a")
	hello(t, hostNS(t), at(netip.IPv4Unspecified(), 22))
	for _, script := range []string{"flush ruleset\n", "delete table arp nodeless\n", "flush chain inet nodeless pod_input\n", "flush set inet nodeless source\nflush chain inet nodeless input\n"} {
		attack.Try(t, "T3", "a Pod connects to its host after "+strings.Fields(script)[0]+" "+strings.Fields(script)[1], func(t *testing.T) attack.Outcome {
			before := listing(t)
			begin := time.Now()
			nft(t, script)
			for listing(t) != before {
				if time.Since(begin) > 5*time.Second {
					t.Fatalf("the rules are not set again:\n%s", listing(t))
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("set again after %s", time.Since(begin).Round(time.Millisecond))
			ping(t, p.ns, gateway)
			return refused(reaches(p.ns, at(gateway, 22)))
		})
	}
}

// TestAttackOpenWhileRulesAreGone: what was opened without rules lives on with them.
func TestAttackOpenWhileRulesAreGone(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	here := hostNS(t)
	// Somebody else still has connections tracked, as kube-proxy does.
	nft(t, "flush ruleset\ntable ip test { chain tracks { type filter hook input priority 0; ct state new accept; }; }\n")
	t.Cleanup(func() { nft(t, "table ip test\ndelete table ip test\n") })
	open := func(port uint16) (says func(text string) error) {
		var l net.Listener
		var c net.Conn
		within(t, here, func() (err error) {
			l, err = net.Listen("tcp4", at(gateway, port).String())
			return err
		})
		t.Cleanup(func() { l.Close() })
		within(t, p.ns, func() (err error) {
			c, err = net.Dial("tcp4", at(gateway, port).String())
			return err
		})
		t.Cleanup(func() { c.Close() })
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		return func(text string) error {
			if _, err := c.Write([]byte(text)); err != nil {
				return err
			}
			if err := server.SetReadDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
				return err
			}
			_, err := io.ReadFull(server, make([]byte, len(text)))
			return err
		}
	}
	ssh, api := open(22), open(apiPort)
	for _, says := range []func(string) error{ssh, api} {
		if err := says("before"); err != nil {
			t.Fatal(err)
		}
	}
	h.setRules()
	attack.Try(t, "T3", "a Pod goes on with a connection from before the rules", func(t *testing.T) attack.Outcome {
		return refused(ssh("after"))
	})
	if err := api("after"); err != nil {
		t.Errorf("a connection that is allowed ends: %v", err)
	}
}

func listing(t *testing.T) string {
	t.Helper()
	var all string
	for _, what := range []string{"table inet nodeless", "table arp nodeless", "set inet nodeless source"} {
		out, _ := exec.Command("nft", append([]string{"--stateless", "--terse", "list"}, strings.Fields(what)...)...).Output()
		all += string(out)
	}
	out, _ := exec.Command("nft", "list", "set", "inet", "nodeless", "source").Output()
	return all + string(out)
}

// TestLinksFromBefore: Pods that ran before their links had files are let send by what their namespaces say.
func TestLinksFromBefore(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	gone := filepath.Join(h.dataDir, "links", "nl00000000.json")
	if err := os.WriteFile(gone, []byte(`{"name":"nl00000000","mac":"02:00:00:00:00:01","address":"10.42.0.9"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.dataDir, "links", hostLink(p)+".json")); err != nil {
		t.Fatal(err)
	}
	nft(t, "flush set inet nodeless source\n")
	if !h.setRules() {
		t.Error("a link without its element is as it should be")
	}
	ping(t, p.ns, gateway)
	if h.setRules() {
		t.Error("rules that are right were set again")
	}
	if _, err := os.Stat(gone); err == nil {
		t.Error("the file of a link that is gone is still there")
	}
	h.del(p.id, p.ns.Path())
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("after DEL there are still %v", left)
	}
}

// TestAttackBandwidth: a Pod sends, or is sent, more bytes than it may have. What nobody bounds arrives.
func TestAttackBandwidth(t *testing.T) {
	const rate, datagram, many = 100_000, 1000, 1500
	for _, tt := range []struct {
		name    string
		all     int64          // for every Pod, in bytes a second
		a, b    map[string]any // of the sender and the receiver alone, as containerd tells of them, in bits a second
		flushed bool           // somebody takes the rules away first
		free    bool
	}{
		{name: "nobody bounds it", free: true},
		{name: "all Pods are bound", all: rate},
		{name: "its own egress is bound", a: map[string]any{"egressRate": 8 * rate}},
		{name: "the other's ingress is bound", b: map[string]any{"ingressRate": 8 * rate}},
		{name: "its own bound is above that of all", all: rate, a: map[string]any{"egressRate": 800 * rate}},
		{name: "rules were taken away and set again", a: map[string]any{"egressRate": 8 * rate}, flushed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHostWith(t, podCIDR, netdev.Guard{Limits: netdev.Limits{Bandwidth: tt.all}})
			a, b := h.mustAddWith("pod-a", tt.a), h.mustAddWith("pod-b", tt.b)
			if h.setRules() {
				t.Error("the rules are taken for changed by somebody")
			}
			if tt.flushed {
				nft(t, "flush ruleset")
				h.setRules()
			}
			heard := count(t, b.ns, at(b.addr, 9000), datagram)
			begin := time.Now()
			shout(t, a.ns, at(b.addr, 9000), datagram, many)
			n := heard()
			most := rate + 256<<10 + int(rate*time.Since(begin).Seconds()) // what is saved up, and what comes meanwhile
			t.Logf("%d of %d bytes arrive, up to %d may", n, datagram*many, most)
			if tt.free {
				if n < datagram*many*9/10 {
					t.Error("without a bound much is lost: this test shows nothing")
				}
				return
			}
			attack.Try(t, "T13", "a Pod takes the whole line: "+tt.name, func(t *testing.T) attack.Outcome {
				if n > most || n < rate/2 {
					return attack.Succeeded
				}
				return attack.Contained
			})
		})
	}
}

// mustAddWith is mustAdd with what the runtime says of the Pod's bandwidth.
func (h *host) mustAddWith(id string, bandwidth map[string]any) pod {
	h.t.Helper()
	h.bandwidth = bandwidth
	defer func() { h.bandwidth = nil }()
	return h.mustAdd(id)
}

// shout sends datagrams without a pause.
func shout(t *testing.T, space ns.NetNS, to netip.AddrPort, size, times int) {
	t.Helper()
	within(t, space, func() error {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer c.Close()
		for range times {
			if _, err := c.Write(make([]byte, size)); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	})
}

// count reads at an address from now on. The function that it returns waits for a moment of silence and tells how many bytes came.
func count(t *testing.T, space ns.NetNS, at netip.AddrPort, size int) func() int {
	t.Helper()
	e := listen(t, space, at)
	var n atomic.Int64
	go func() {
		for buf := make([]byte, size); ; {
			got, err := e.c.Read(buf)
			if err != nil {
				return // closed at the test's end
			}
			n.Add(int64(got))
		}
	}()
	return func() int {
		for last := int64(-1); last != n.Load(); time.Sleep(300 * time.Millisecond) {
			last = n.Load()
		}
		return int(n.Load())
	}
}
