package netns_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/netdev"
)

var (
	cluster = netip.MustParsePrefix("10.42.0.0/16")
	podCIDR = netip.MustParsePrefix("10.42.0.0/24")
	// services is where ClusterIPs are; no kube-proxy translates them here.
	services = netip.MustParsePrefix("10.43.0.0/16")
	gateway  = netip.MustParseAddr("10.42.0.1")
)

const apiPort = 6443

// host is the network of one host, set up as the server does it.
type host struct {
	t       *testing.T
	rules   *netdev.Rules
	net     netdev.Config
	dataDir string
	plugins *libcni.CNIConfig
	conf    *libcni.NetworkConfigList
	ports   []map[string]any // of the host, that the next Pod asks for

	bandwidth map[string]any // of the next Pod, as the runtime tells it; nil for none
}

func newHost(t *testing.T, pods netip.Prefix) *host {
	t.Helper()
	return newHostWith(t, pods, netdev.Guard{Services: services, APIPort: apiPort, Denied: netdev.MetadataServices(), Limits: netdev.DefaultLimits()})
}

func newHostWith(t *testing.T, pods netip.Prefix, guard netdev.Guard) *host {
	t.Helper()
	h := &host{t: t, net: netdev.Config{Gateway: gateway, ClusterCIDR: cluster, Guard: guard}, dataDir: t.TempDir()}
	h.rules = netdev.NewRules(h.net)
	h.setRules()
	if err := netdev.Apply(h.net); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	t.Cleanup(func() {
		if err := netdev.Remove(h.net); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, cni.Type)); err != nil {
		t.Fatal(err)
	}
	raw, err := cni.ConfList(pods, gateway, h.dataDir, cni.DefaultMTU, "", guard.PodPorts)
	if err != nil {
		t.Fatalf("ConfList: %v", err)
	}
	if h.conf, err = libcni.NetworkConfFromBytes(raw); err != nil {
		t.Fatalf("read our own CNI configuration: %v", err)
	}
	h.plugins = libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	return h
}

// setRules is what the server does at its start, and when somebody has changed its rules.
func (h *host) setRules() (changed bool) {
	h.t.Helper()
	err := cni.WithLinks(h.dataDir, func(links []netdev.Link) (err error) {
		changed, err = h.rules.Set(links)
		return err
	})
	if err != nil {
		h.t.Fatalf("set packet rules: %v", err)
	}
	return changed
}

// pod is a network namespace that the plugin has connected.
type pod struct {
	id   string
	ns   ns.NetNS
	addr netip.Addr
}

func (h *host) runtimeConf(id, path string) *libcni.RuntimeConf {
	conf := &libcni.RuntimeConf{ContainerID: id, NetNS: path, IfName: "eth0"}
	conf.CapabilityArgs = map[string]any{}
	if h.ports != nil {
		conf.CapabilityArgs["portMappings"] = h.ports
	}
	if h.bandwidth != nil {
		conf.CapabilityArgs["bandwidth"] = h.bandwidth
	}
	return conf
}

func (h *host) add(id string) (pod, error) {
	h.t.Helper()
	space := newNamespace(h.t, id)
	res, err := h.plugins.AddNetworkList(context.Background(), h.conf, h.runtimeConf(id, space.Path()))
	if err != nil {
		return pod{id: id, ns: space}, err
	}
	got, err := current.GetResult(res)
	if err != nil {
		h.t.Fatalf("read result of ADD: %v", err)
	}
	addr, _ := netip.AddrFromSlice(got.IPs[0].Address.IP.To4())
	within(h.t, space, func() error { awaitUp(h.t, "eth0"); return nil })
	return pod{id: id, ns: space, addr: addr}, nil
}

func (h *host) mustAdd(id string) pod {
	h.t.Helper()
	p, err := h.add(id)
	if err != nil {
		h.t.Fatalf("ADD %s: %v", id, err)
	}
	return p
}

func (h *host) del(id, path string) {
	h.t.Helper()
	if err := h.plugins.DelNetworkList(context.Background(), h.conf, h.runtimeConf(id, path)); err != nil {
		h.t.Errorf("DEL %s: %v", id, err)
	}
}

// leftovers lists what the plugin still holds: links, routes to Pods, reserved addresses.
func (h *host) leftovers() []string {
	h.t.Helper()
	links, err := netdev.PodLinks()
	if err != nil {
		h.t.Fatal(err)
	}
	left := links
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNREACHABLE && r.Dst != nil && r.Dst.IP.To4() != nil && cluster.Contains(netip.AddrFrom4([4]byte(r.Dst.IP.To4()))) {
			left = append(left, "route "+r.Dst.String())
		}
	}
	files, err := os.ReadDir(filepath.Join(h.dataDir, cni.Type))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(h.dataDir, cni.Type, f.Name()))
		if err != nil {
			h.t.Fatal(err)
		}
		if _, err := netip.ParseAddr(f.Name()); err == nil && string(text) != "retired" { // one that rests belongs to nobody
			left = append(left, "address "+f.Name())
		}
	}
	for _, family := range []string{"inet", "arp"} {
		out, err := exec.Command("nft", "list", "set", family, netdev.Table, "source").Output()
		if err == nil && strings.Contains(string(out), "elements") {
			left = append(left, "rules "+string(out))
		}
	}
	return left
}

// newNamespace makes a named network namespace with loopback up, removed at the end of the test.
func newNamespace(t *testing.T, name string) ns.NetNS {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	fresh, err := netns.NewNamed(name)
	if err != nil {
		t.Fatalf("make namespace %s: %v", name, err)
	}
	fresh.Close()
	if err := netns.Set(back); err != nil {
		t.Fatal(err)
	}
	space, err := ns.GetNS("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		space.Close()
		netns.DeleteNamed(name) //nolint:errcheck // some tests have removed it already
	})
	within(t, space, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return space
}

func within(t *testing.T, space ns.NetNS, f func() error) {
	t.Helper()
	if err := space.Do(func(ns.NetNS) error { return f() }); err != nil {
		t.Fatal(err)
	}
}

// serve answers HTTP in a namespace with the address of whoever asks.
func serve(t *testing.T, space ns.NetNS, addr netip.Addr) string {
	t.Helper()
	var l net.Listener
	within(t, space, func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, from)
	})}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}

// getFrom asks from within a namespace: the dial happens on the thread that is in it.
func getFrom(t *testing.T, space ns.NetNS, url string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = space.Do(func(ns.NetNS) error {
			c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp4", addr)
			return err
		})
		return c, err
	}}
	res, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return string(raw)
}

// ping sends one echo request from within a namespace and waits for its answer.
func ping(t *testing.T, space ns.NetNS, to netip.Addr) {
	t.Helper()
	var c *icmp.PacketConn
	within(t, space, func() (err error) {
		c, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	defer c.Close()
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte("nodeless")}}
	raw, err := msg.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(raw, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		t.Fatalf("ping %s: %v", to, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("ping %s: no answer: %v", to, err)
		}
		got, err := icmp.ParseMessage(1, buf[:n])
		if err == nil && got.Type == ipv4.ICMPTypeEchoReply && from.String() == to.String() {
			return
		}
	}
}
