package preflight

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/netdev"
)

// tryKernel makes one of each kernel object that a Pod needs, in namespaces of its own that end with the thread.
func tryKernel(ctx context.Context, nft, iptables string) []Result {
	done := make(chan []Result, 1)
	go onOwnThread(func() { done <- tryInNamespaces(ctx, nft, iptables) })
	return <-done
}

// onOwnThread runs fn on a thread that ends with it and is not the main thread: /proc/self shows the main thread's
// namespaces, and it cannot end before the process does.
func onOwnThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return // locked still: the runtime ends the thread, and with it the namespaces
	}
	done := make(chan struct{})
	go func() { // cannot get the main thread: we hold it
		defer close(done)
		onOwnThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}

// feature is one thing to try, what it is called and what gives it.
type feature struct {
	name   string
	module string
	try    func(ctx context.Context) error
}

func tryInNamespaces(ctx context.Context, nft, iptables string) []Result {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); err != nil {
		return []Result{fail("namespaces", fmt.Sprintf("unshare: %v", err), "run outside of a container, on a kernel with network, mount, UTS and IPC namespaces")}
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return []Result{fail("namespaces", fmt.Sprintf("make mounts private: %v", err), "run outside of a container")}
	}
	out := []Result{pass("namespaces", "network, mount, UTS, IPC")}
	features := []feature{
		{"veth", "veth", func(context.Context) error { return tryVeth() }},
		{"bridge", "bridge", func(context.Context) error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: named("probe-br")}) }},
		{"tun", "tun", func(context.Context) error { return tryTap() }},
		{"traffic control", "sch_ingress, cls_u32 and act_mirred", func(context.Context) error { return tryRedirect() }},
		{"nf_tables", "nf_tables", func(context.Context) error { return tryNFTables() }},
		{"erofs", "erofs", func(context.Context) error { return tryFilesystem("erofs") }},
		{"overlay", "overlay", func(context.Context) error { return tryFilesystem("overlay") }},
	}
	if nft != "" {
		features = append(features, feature{"nft rules", "nft_nat, nft_masq, nft_fib_inet, nft_numgen, nft_reject_inet and nf_conntrack",
			func(ctx context.Context) error { return feed(ctx, rules, nft, "-f", "-") }},
			feature{"nft rules for Pods", "nft_ct, nft_limit, nft_connlimit and nft_reject_inet",
				func(ctx context.Context) error { return feed(ctx, netdev.Probe(), nft, "-f", "-") }})
	}
	if iptables != "" {
		features = append(features, feature{"iptables rules", "nft_compat, xt_MASQUERADE and xt_conntrack", func(ctx context.Context) error {
			return errors.Join(
				feed(ctx, "", iptables, "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "probe", "-j", "MASQUERADE"),
				feed(ctx, "", iptables, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "ACCEPT"))
		}})
	}
	for _, f := range features {
		if err := f.try(ctx); err != nil {
			out = append(out, fail("kernel "+f.name, err.Error(), fmt.Sprintf("load the kernel module (modprobe %s), or boot a kernel that has it", f.module)))
			continue
		}
		out = append(out, pass("kernel "+f.name, "works"))
	}
	return out
}

// rules uses what kube-proxy's nftables mode uses.
const rules = `table inet probe {
	chain nat { type nat hook postrouting priority 100; masquerade; }
	chain choose { type nat hook prerouting priority -100; fib daddr type local numgen random mod 2 vmap { 0 : goto end, 1 : goto end }; }
	chain end { }
	chain filter { type filter hook forward priority 0; ct state established accept; reject; }
}
`

// feed runs a program in this thread's namespaces with text on its input.
func feed(ctx context.Context, text, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("run %s: %w: %s", program, err, first)
	}
	return nil
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func tryVeth() error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: named("probe-a"), PeerName: "probe-b"})
}

func tryTap() (err error) {
	tap := &netlink.Tuntap{LinkAttrs: named("probe-tap"), Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_DEFAULTS, Queues: 1}
	if err := netlink.LinkAdd(tap); err != nil {
		return err
	}
	for _, f := range tap.Fds {
		err = errors.Join(err, f.Close())
	}
	return err
}

// tryRedirect sends what comes in at one end of the veth pair of tryVeth to the other, as Kata's tcfilter model does.
func tryRedirect() error {
	link, err := netlink.LinkByName("probe-a")
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add ingress queue: %w", err)
	}
	mirred := netlink.NewMirredAction(index)
	mirred.Action, mirred.MirredAction = netlink.TC_ACT_STOLEN, netlink.TCA_EGRESS_REDIR
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.MakeHandle(0xffff, 0), Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{mirred},
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return fmt.Errorf("add u32 filter with mirred action: %w", err)
	}
	return nil
}

// tryNFTables asks for the generation of the rule set, the smallest request of nf_tables.
func tryNFTables() error {
	const getGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	req := nl.NewNetlinkRequest(getGeneration, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// tryFilesystem asks the kernel to mount nothing: it answers ENODEV if (after loading modules) it does not know the type.
func tryFilesystem(name string) error {
	err := unix.Mount("none", "/proc/self/fd", name, unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("file system type is not known: %w", err)
	}
	return nil
}
