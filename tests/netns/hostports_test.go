package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/tests/attack"
)

// mapping is a port of the host, as the runtime tells the plugin of it.
func mapping(protocol string, hostIP string, port, podPort int) map[string]any {
	return map[string]any{"hostPort": port, "containerPort": podPort, "protocol": protocol, "hostIP": hostIP}
}

// addWithPorts connects a Pod that asks for ports of the host.
func (h *host) addWithPorts(id string, ports ...map[string]any) (pod, error) {
	h.t.Helper()
	h.ports = ports
	defer func() { h.ports = nil }()
	return h.add(id)
}

func newPortHost(t *testing.T) *host {
	return newHostWith(t, podCIDR, netdev.Guard{Services: services, APIPort: apiPort, PodPorts: true, Denied: netdev.MetadataServices(), Limits: netdev.DefaultLimits()})
}

// answer has something in a namespace answer all that comes to a port with a name: over UDP the datagram, over TCP the connection.
func answer(t *testing.T, space ns.NetNS, addr netip.Addr, port int, name string) {
	t.Helper()
	at := net.JoinHostPort(addr.String(), fmt.Sprint(port))
	var l net.Listener
	var c net.PacketConn
	within(t, space, func() (err error) {
		if l, err = net.Listen("tcp4", at); err != nil {
			return err
		}
		c, err = net.ListenPacket("udp4", at)
		return err
	})
	t.Cleanup(func() { l.Close(); c.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(name)) //nolint:errcheck // who asks sees it
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo([]byte(name), from) //nolint:errcheck // who asks sees it
		}
	}()
}

// ask is who answers at an address, "" if nobody does.
func ask(t *testing.T, space ns.NetNS, network string, to netip.Addr, port int) string {
	t.Helper()
	var c net.Conn
	err := space.Do(func(ns.NetNS) (err error) {
		c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, net.JoinHostPort(to.String(), fmt.Sprint(port)))
		return err
	})
	if err != nil {
		return ""
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if network == "udp4" {
		if _, err := c.Write([]byte("who?")); err != nil {
			return ""
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// TestHostPorts: a port of the host leads to the Pod that asked for it, from everywhere and over each protocol, on the addresses that it
// asked for. So it does after a flush of the rules. It leads nowhere once the Pod has gone.
func TestHostPorts(t *testing.T) {
	h := newPortHost(t)
	outside := newNeighbour(t)
	here, err := ns.GetCurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	loopback := netip.MustParseAddr("127.0.0.1")
	web, err := h.addWithPorts("web", mapping("tcp", "", 8080, 80), mapping("udp", "0.0.0.0", 8080, 80), mapping("sctp", "", 8080, 80))
	if err != nil {
		t.Fatal(err)
	}
	local, err := h.addWithPorts("local", mapping("tcp", "127.0.0.1", 8081, 80))
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.addWithPorts("other", mapping("tcp", hostAddr.String(), 8081, 80)) // one port, another address
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]pod{"web": web, "local": local, "other": other} {
		answer(t, p.ns, p.addr, 80, name)
	}
	expect := func(when, forAll, forLocal, forOther string) {
		t.Helper()
		for _, tt := range []struct {
			from    string
			space   ns.NetNS
			network string
			to      netip.Addr
			port    int
			want    string
		}{
			{"a neighbour", outside, "tcp4", hostAddr, 8080, forAll},
			{"a neighbour", outside, "udp4", hostAddr, 8080, forAll},
			{"the host", here, "tcp4", hostAddr, 8080, forAll},
			{"the host", here, "udp4", hostAddr, 8080, forAll},
			{"the host by its loopback", here, "tcp4", loopback, 8080, forAll},
			{"the host by its loopback", here, "udp4", loopback, 8080, forAll},
			{"another Pod", other.ns, "tcp4", hostAddr, 8080, forAll},
			{"another Pod by the gateway", other.ns, "tcp4", gateway, 8080, forAll},
			{"the Pod itself", web.ns, "tcp4", hostAddr, 8080, forAll},
			{"a neighbour", outside, "tcp4", hostAddr, 8081, forOther},
			{"the host by its loopback", here, "tcp4", loopback, 8081, forLocal},
			{"a Pod by an address that nobody asked for", web.ns, "tcp4", gateway, 8081, ""},
		} {
			if got := ask(t, tt.space, tt.network, tt.to, tt.port); got != tt.want {
				t.Errorf("%s: %s at %s:%d over %s finds %q, want %q", when, tt.from, tt.to, tt.port, tt.network, got, tt.want)
			}
		}
	}
	expect("at first", "web", "local", "other")
	out, err := exec.Command("nft", "list", "map", "inet", netdev.Table, "host_ports").Output()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("sctp . 8080 : %s . 80", web.addr)) {
		t.Errorf("the map of ports is %s, %v; want one of SCTP", out, err)
	}
	if h.setRules() {
		t.Error("the rules were set again though nobody had changed them")
	}
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("flush: %v %s", err, out)
	}
	if !h.setRules() {
		t.Error("a flush was not noticed")
	}
	if err := netdev.Apply(h.net); err != nil {
		t.Fatal(err)
	}
	expect("after a flush", "web", "local", "other")
	if out, err := exec.Command("nft", "flush", "map", "inet", netdev.Table, "host_ports").CombinedOutput(); err != nil {
		t.Fatalf("flush of a map: %v %s", err, out)
	}
	h.setRules()
	expect("after a flush of the map", "web", "local", "other")
	for _, p := range []pod{web, local, other} {
		h.del(p.id, p.ns.Path())
	}
	expect("when the Pods have gone", "", "", "")
	if ports, err := exec.Command("nft", "list", "table", "inet", netdev.Table).Output(); err != nil || strings.Contains(string(ports), "8080") {
		t.Errorf("there are still rules: %v\n%s", err, ports)
	}
}

// TestHostPortsAreTaken: a port that a program of the host or another Pod has is given to nobody, and is told with its name; without the
// operator's leave no port is given.
func TestHostPortsAreTaken(t *testing.T) {
	h := newPortHost(t)
	newNeighbour(t)
	l, err := net.Listen("tcp4", "0.0.0.0:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first, err := h.addWithPorts("first", mapping("tcp", hostAddr.String(), 8080, 80), mapping("udp", "", 8090, 80))
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		ask  map[string]any
		want string
	}{
		{mapping("tcp", "", 8090, 80), "port 8090/tcp of the host is taken by a program of the host"},
		{mapping("tcp", hostAddr.String(), 8090, 80), "port 192.0.2.1:8090/tcp of the host is taken by a program of the host"},
		{mapping("tcp", "", 8080, 80), "port 8080/tcp of the host is another Pod's, with address " + first.addr.String()},
		{mapping("udp", hostAddr.String(), 8090, 81), "port 192.0.2.1:8090/udp of the host is another Pod's, with address " + first.addr.String()},
		{mapping("tcp", "::1", 8070, 80), "Pods have IPv4 alone"},
		{mapping("icmp", "", 8070, 80), "want ports of tcp, udp or sctp"},
	} {
		id := fmt.Sprint("late-", i)
		if _, err := h.addWithPorts(id, tt.ask); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ADD with %v = %v, want %q", tt.ask, err, tt.want)
		}
	}
	h.del(first.id, first.ns.Path())
	second, err := h.addWithPorts("second", mapping("tcp", "", 8080, 80))
	if err != nil {
		t.Errorf("a port that is free again: %v", err)
	}
	h.del(second.id, second.ns.Path())
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("there are still %v", left)
	}
}

// TestHostPortsNeedLeave: a server that allows none leads none, and takes away those that an earlier one has given.
func TestHostPortsNeedLeave(t *testing.T) {
	h := newPortHost(t)
	newNeighbour(t)
	here, err := ns.GetCurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	p, err := h.addWithPorts("web", mapping("tcp", "", 8080, 80))
	if err != nil {
		t.Fatal(err)
	}
	answer(t, p.ns, p.addr, 80, "web")
	if got := ask(t, here, "tcp4", hostAddr, 8080); got != "web" {
		t.Fatalf("port 8080 leads to %q", got)
	}
	h.net.Guard.PodPorts = false // the operator has changed his mind, and starts the server again
	h.rules = netdev.NewRules(h.net)
	h.setRules()
	if got := ask(t, here, "tcp4", hostAddr, 8080); got != "" {
		t.Errorf("port 8080 still leads to %q", got)
	}
	h.del(p.id, p.ns.Path())
}

// TestAttackHostLoopbackPorts: a port that a Pod has of the host's loopback alone is not for other Pods, whatever they send.
func TestAttackHostLoopbackPorts(t *testing.T) {
	h := newPortHost(t)
	newNeighbour(t)
	loopback := netip.MustParseAddr("127.0.0.1")
	local, err := h.addWithPorts("local", mapping("udp", loopback.String(), 8081, 80))
	if err != nil {
		t.Fatal(err)
	}
	p, e, own := h.mustAdd("pod-a"), listen(t, local.ns, at(local.addr, 80)), listen(t, hostNS(t), at(loopback, 8082))
	send := func(w *wire, to netip.AddrPort) { w.send(w.udp(w.mac, at(p.addr, 4000), to)) }
	if send(newWire(t, p), at(local.addr, 80)); e.heard(t) == 0 {
		t.Fatal("nothing comes by the Pod's own address either")
	}
	attack.Try(t, "T3", "a Pod sends to a port of the host's loopback that is another Pod's", func(t *testing.T) attack.Outcome {
		if send(newWire(t, p), at(loopback, 8081)); e.heard(t) > 0 {
			return attack.Succeeded
		}
		return attack.Refused
	})
	attack.Try(t, "T3", "a Pod that has a port sends to the host's loopback", func(t *testing.T) attack.Outcome {
		w := newWire(t, local)
		if w.send(w.udp(w.mac, at(local.addr, 4000), at(loopback, 8082))); own.heard(t) > 0 {
			return attack.Succeeded
		}
		return attack.Refused
	})
	h.del(local.id, local.ns.Path())
}
