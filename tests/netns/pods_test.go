package netns_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/teardown"
)

func TestPodToPod(t *testing.T) {
	h := newHost(t, podCIDR)
	a, b := h.mustAdd("pod-a"), h.mustAdd("pod-b")
	if a.addr == b.addr {
		t.Fatalf("both Pods have %s", a.addr)
	}
	ping(t, a.ns, b.addr)
	ping(t, a.ns, gateway)
	url := serve(t, b.ns, b.addr)
	if got := getFrom(t, a.ns, url); got != a.addr.String() {
		t.Errorf("Pod to Pod arrives from %s, want the Pod's own address %s", got, a.addr)
	}
	for _, p := range []pod{a, b} {
		if err := h.plugins.CheckNetworkList(context.Background(), h.conf, h.runtimeConf(p.id, p.ns.Path())); err != nil {
			t.Errorf("CHECK %s: %v", p.id, err)
		}
		h.del(p.id, p.ns.Path())
	}
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("after DEL of all Pods there are still %v", left)
	}
}

func TestHostToPodComesFromTheGatewayAddress(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	here, err := ns.GetCurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if got := getFrom(t, here, serve(t, p.ns, p.addr)); got != gateway.String() {
		t.Errorf("host to Pod arrives from %s, want %s", got, gateway)
	}
	h.del(p.id, p.ns.Path())
}

func TestPodHasIPv4Only(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	within(t, p.ns, func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		if len(addrs) != 1 || addrs[0].IPNet.String() != p.addr.String()+"/32" {
			t.Errorf("eth0 has %v, want %s/32 alone", addrs, p.addr)
		}
		return nil
	})
	h.del(p.id, p.ns.Path())
}

// TestMasquerade: what leaves the cluster carries the host's address, what stays does not.
func TestMasquerade(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	outside := newNeighbour(t)
	if got := getFrom(t, p.ns, serve(t, outside, neighbourAddr)); got != hostAddr.String() {
		t.Errorf("Pod to outside arrives from %s, want the host's %s", got, hostAddr)
	}
	h.del(p.id, p.ns.Path())
}

// TestDelLeavesALinkToCount: the kubelet counts the bytes of a Pod's links, and panics when a namespace has none but lo.
func TestDelLeavesALinkToCount(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	for range 2 { // it may be repeated
		h.del(p.id, p.ns.Path())
		var names []string
		within(t, p.ns, func() error {
			links, err := netlink.LinkList()
			for _, l := range links {
				names = append(names, l.Attrs().Name)
			}
			return err
		})
		if len(names) != 2 || !slices.Contains(names, "lo") || slices.Contains(names, "eth0") {
			t.Errorf("after DEL the namespace has the links %v, want lo and one that leads nowhere", names)
		}
	}
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("after DEL the host still has %v", left)
	}
}

func TestDelWithoutNamespaceAndTwice(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	p.ns.Close()
	if err := netns.DeleteNamed(p.id); err != nil {
		t.Fatal(err)
	}
	h.del(p.id, "")
	h.del(p.id, "")
	h.del("never-added", "/run/netns/never-added")
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("after DEL there are still %v", left)
	}
}

func TestExhaustionIsClearAndLeavesNothing(t *testing.T) {
	h := newHost(t, netip.MustParsePrefix("10.42.0.0/29")) // .1 gateway, .2 to .6 for Pods
	var pods []pod
	for i := range 5 {
		pods = append(pods, h.mustAdd(fmt.Sprintf("pod-%d", i)))
	}
	before := h.leftovers()
	_, err := h.add("pod-5")
	var cniErr *types.Error
	if !errors.As(err, &cniErr) || cniErr.Code != cni.ErrCodeExhausted {
		t.Fatalf("ADD in a full range: %v, want code %d", err, cni.ErrCodeExhausted)
	}
	if want := "no free address in Pod range 10.42.0.0/29: all 5 are in use"; cniErr.Msg != want {
		t.Errorf("error says %q, want %q", cniErr.Msg, want)
	}
	if diff := cmp.Diff(before, h.leftovers()); diff != "" {
		t.Errorf("a refused ADD changed the host (-before +after):\n%s", diff)
	}
	h.del(pods[0].id, pods[0].ns.Path())
	if p, err := h.add("pod-6"); err != nil {
		t.Errorf("ADD after a DEL in a full range: %v", err)
	} else {
		h.del(p.id, p.ns.Path())
	}
	for _, p := range pods[1:] {
		h.del(p.id, p.ns.Path())
	}
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("after DEL of all Pods there are still %v", left)
	}
}

func TestFailedAddLeavesNothing(t *testing.T) {
	h := newHost(t, podCIDR)
	space := newNamespace(t, "pod-a")
	within(t, space, func() error { // eth0 is taken: ADD fails after the address was reserved
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	if _, err := h.plugins.AddNetworkList(context.Background(), h.conf, h.runtimeConf("pod-a", space.Path())); err == nil {
		t.Fatal("ADD with eth0 taken succeeded, want an error")
	}
	if left := h.leftovers(); len(left) > 0 {
		t.Errorf("a failed ADD left %v", left)
	}
}

func TestGCRemovesWhatNobodyKnows(t *testing.T) {
	h := newHost(t, podCIDR)
	kept, lost := h.mustAdd("pod-kept"), h.mustAdd("pod-lost")
	keep := []types.GCAttachment{{ContainerID: kept.id, IfName: "eth0"}}
	if err := h.plugins.GCNetworkList(context.Background(), h.conf, &libcni.GCArgs{ValidAttachments: keep}); err != nil {
		t.Fatalf("GC: %v", err)
	}
	left := strings.Join(h.leftovers(), " ")
	if strings.Contains(left, lost.addr.String()) || !strings.Contains(left, kept.addr.String()) {
		t.Errorf("after GC there are %s, want %s and not %s", left, kept.addr, lost.addr)
	}
	h.del(kept.id, kept.ns.Path())
}

func TestStatus(t *testing.T) {
	h := newHost(t, podCIDR)
	if err := h.plugins.GetStatusNetworkList(context.Background(), h.conf); err != nil {
		t.Errorf("STATUS on a ready host: %v", err)
	}
	if err := netdev.Remove(h.net); err != nil {
		t.Fatal(err)
	}
	if err := h.plugins.GetStatusNetworkList(context.Background(), h.conf); err == nil {
		t.Error("STATUS without the gateway address succeeded, want an error")
	}
}

func TestApplyTwiceAndRemove(t *testing.T) {
	h := newHost(t, podCIDR)
	first := rules(t)
	if err := netdev.Apply(h.net); err != nil {
		t.Fatalf("second Apply: %v", err)
	}
	if diff := cmp.Diff(first, rules(t)); diff != "" {
		t.Errorf("second Apply changed rules (-first +second):\n%s", diff)
	}
	if out, err := exec.Command("ip", "-o", "address", "show", "dev", netdev.Bridge).CombinedOutput(); err != nil || !strings.Contains(string(out), h.net.Gateway.String()+"/") {
		t.Errorf("%s has not the address %s: %s, %v", netdev.Bridge, h.net.Gateway, out, err)
	}
	if err := netdev.Remove(h.net); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if err := netdev.Remove(h.net); err != nil {
		t.Fatalf("second Remove: %v", err)
	}
	if out, err := exec.Command("ip", "route", "show", "type", "unreachable").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("after Remove there is still the route %s, %v", out, err)
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(out), netdev.Table) {
		t.Errorf("after Remove there are still the tables\n%s, %v", out, err)
	}
	if got := rules(t); strings.Contains(got, "NODELESS") {
		t.Errorf("after Remove there are still rules:\n%s", got)
	}
	if _, err := os.Stat("/sys/class/net/" + netdev.Bridge); err == nil {
		t.Errorf("after Remove there is still %s", netdev.Bridge)
	}
}

// TestUninstallFindsAndRemovesAll: what a host has for its Pods is named before it goes, and all of it goes.
func TestUninstallFindsAndRemovesAll(t *testing.T) {
	h := newHost(t, podCIDR)
	p := h.mustAdd("pod-a")
	uninstall := teardown.HostNetwork{IPTables: "iptables", NFT: "nft"}
	found, err := uninstall.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"link " + hostLink(p), "link nodeless0", "iptables chain NODELESS-FORWARD", "nftables table inet nodeless", "nftables table arp nodeless"} {
		if !slices.Contains(found, want) {
			t.Errorf("uninstall finds %q, want %q as well", found, want)
		}
	}
	for range 2 { // it may be repeated
		if err := uninstall.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := uninstall.Find(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("after uninstall there are still %q, %v", found, err)
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("after uninstall there are still the rules\n%s, %v", out, err)
	}
}

// TestADeviceWithTheNameOfALinkIsNotCutOff: the server does not start, rather than refuse all that the device brings.
func TestADeviceWithTheNameOfALinkIsNotCutOff(t *testing.T) {
	h := newHost(t, podCIDR)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "nlan0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netdev.RemoveLink("nlan0") }) //nolint:errcheck // the namespace goes anyway
	if _, err := netdev.NewRules(h.net).Set(nil); err == nil || !strings.Contains(err.Error(), "nlan0") {
		t.Errorf("Set = %v, want the name of the device", err)
	}
}

func TestHostLinkIsALinkName(t *testing.T) {
	name := cni.HostLink(hex.EncodeToString(make([]byte, 32)), "eth0")
	if len(name) > 15 || !strings.HasPrefix(name, netdev.PodLinkPrefix) {
		t.Errorf("HostLink = %q, want at most 15 characters beginning with %q", name, netdev.PodLinkPrefix)
	}
}

func rules(t *testing.T) string {
	t.Helper()
	ipt, err := iptables.New()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, where := range [][2]string{
		{"nat", "POSTROUTING"}, {"nat", netdev.PostroutingChain}, {"filter", "FORWARD"}, {"filter", netdev.ForwardChain},
	} {
		if lines, err := ipt.List(where[0], where[1]); err == nil { // a chain that is gone has no rules
			all = append(all, lines...)
		}
	}
	return strings.Join(all, "\n")
}
