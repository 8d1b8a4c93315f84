package netns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the host and its neighbour have on the network between them, and where the neighbour plays the metadata service of a cloud.
var (
	hostAddr      = netip.MustParseAddr("192.0.2.1")
	neighbourAddr = netip.MustParseAddr("192.0.2.2")
	metadataAddrs = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("100.100.100.200")}
)

// newNeighbour is another host on the network of the host's uplink. It has routes to Pods and Services by way of the host.
func newNeighbour(t *testing.T) ns.NetNS {
	t.Helper()
	outside := newNamespace(t, "outside")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(outside.Fd()))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("uplink"); err == nil {
			netlink.LinkDel(l) //nolint:errcheck // the namespace goes anyway
		}
	})
	setAddress(t, "uplink", hostAddr, 24)
	for _, a := range metadataAddrs {
		addRoute(t, "uplink", netip.PrefixFrom(a, 32), netip.Addr{})
	}
	within(t, outside, func() error {
		setAddress(t, "eth0", neighbourAddr, 24)
		for _, a := range metadataAddrs {
			setAddress(t, "eth0", a, 32)
		}
		addRoute(t, "eth0", cluster, hostAddr)
		addRoute(t, "eth0", services, hostAddr)
		awaitUp(t, "eth0")
		return nil
	})
	awaitUp(t, "uplink")
	return outside
}

// awaitUp waits until the kernel no longer throws away what is sent by a new link.
func awaitUp(t *testing.T, dev string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("link %s does not come up", dev)
		}
	}
}

func setAddress(t *testing.T, dev string, addr netip.Addr, bits int) {
	t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
}

func addRoute(t *testing.T, dev string, to netip.Prefix, gateway netip.Addr) {
	t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)}}
	if gateway.IsValid() {
		r.Gw, r.Scope = gateway.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if err := netlink.RouteAdd(r); err != nil {
		t.Fatalf("add route to %s: %v", to, err)
	}
}

// nft has the program do as it is told, in the host's namespace.
func nft(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, script)
	}
}

// translate is what kube-proxy does for a Service or a node port.
func translate(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	nft(t, fmt.Sprintf("table ip test { chain services { type nat hook prerouting priority dstnat; ip daddr %s tcp dport %d dnat to %s; }; }\n",
		from.Addr(), from.Port(), to))
	t.Cleanup(func() { nft(t, "table ip test\ndelete table ip test\n") })
}

// hello answers whoever connects to one of the addresses.
func hello(t *testing.T, space ns.NetNS, addrs ...netip.AddrPort) {
	t.Helper()
	for _, a := range addrs {
		var l net.Listener
		within(t, space, func() (err error) {
			l, err = net.Listen("tcp4", a.String())
			return err
		})
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "hello") //nolint:errcheck // the client will miss it
				c.Close()
			}
		}()
	}
}

// reaches tells whether somebody answers at the address; nil means yes.
func reaches(space ns.NetNS, to netip.AddrPort) error {
	return space.Do(func(ns.NetNS) error {
		ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
		defer cancel()
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if err == nil && string(got) != "hello" {
			err = fmt.Errorf("it says %q", got)
		}
		return err
	})
}

// ear counts the datagrams that arrive at an address.
type ear struct{ c *net.UDPConn }

func listen(t *testing.T, space ns.NetNS, at netip.AddrPort) ear {
	t.Helper()
	var e ear
	within(t, space, func() (err error) {
		e.c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { e.c.Close() })
	if err := e.c.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return e
}

// heard waits for a moment of silence.
func (e ear) heard(t *testing.T) (n int) {
	t.Helper()
	buf := make([]byte, 100)
	for {
		if err := e.c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.c.ReadFromUDP(buf); err != nil {
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Fatal(err)
			}
			return n
		}
		n++
	}
}

// wire sends frames of any kind out of a Pod, as root in its microVM can.
type wire struct {
	t         *testing.T
	fd, index int
	mac, host net.HardwareAddr
}

func newWire(t *testing.T, p pod) *wire {
	t.Helper()
	w := &wire{t: t}
	within(t, p.ns, func() (err error) {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		w.index, w.mac = dev.Attrs().Index, dev.Attrs().HardwareAddr
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		return err
	})
	t.Cleanup(func() { unix.Close(w.fd) }) //nolint:errcheck // nothing is lost
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "nl") && l.Attrs().ParentIndex == w.index && l.Attrs().Name == hostLink(p) {
			w.host = l.Attrs().HardwareAddr
		}
	}
	if w.host == nil {
		t.Fatalf("no link of %s on the host", p.id)
	}
	return w
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index}); err != nil && !errors.Is(err, unix.ENOBUFS) {
		w.t.Fatalf("send a frame: %v", err)
	}
}

// udp is a datagram in a frame. Its checksum is left out, as UDP allows.
func (w *wire) udp(mac net.HardwareAddr, from, to netip.AddrPort) []byte {
	var datagram []byte
	for _, v := range []uint16{from.Port(), to.Port(), 8, 0} {
		datagram = binary.BigEndian.AppendUint16(datagram, v)
	}
	return w.packet(mac, from.Addr(), to.Addr(), unix.IPPROTO_UDP, datagram)
}

func (w *wire) packet(mac net.HardwareAddr, from, to netip.Addr, protocol byte, payload []byte) []byte {
	frame := append(append(append([]byte{}, w.host...), mac...), 0x08, 0x00)
	ip := make([]byte, 20)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(len(ip)+len(payload)), 64, protocol
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	return append(append(frame, ip...), payload...)
}

// arp asks for the gateway's address in the name of another.
func (w *wire) arp(sender netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, w.mac...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	frame = append(append(frame, w.mac...), sender.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), gateway.AsSlice()...)
}
