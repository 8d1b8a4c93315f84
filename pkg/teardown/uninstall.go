package teardown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/netdev"
)

// Step is one kind of thing that is removed. Find lists what is there now; Remove takes that away, and what is
// already gone counts as removed.
type Step struct {
	Name   string
	Find   func(context.Context) ([]string, error)
	Remove func(context.Context) error
}

// Network is what the steps need of the host's network.
type Network interface {
	// Find names links, chains and tables that nodeless made and that are there.
	Find(context.Context) ([]string, error)
	Remove(context.Context) error
}

// Installation is what nodeless may have made on a host.
type Installation struct {
	Host    Host
	DataDir string
	RunDir  string
	Network Network
}

// Steps lists what Uninstall removes, in order: processes first, then what they held. The files come last, as a step of
// pkg/cli, which knows whose they are.
func Steps(in Installation) []Step {
	h := in.Host
	return []Step{
		{Name: "processes", Find: in.findProcesses, Remove: in.removeProcesses},
		{Name: "sandboxes", Find: func(context.Context) ([]string, error) {
			alive, dead, err := h.Sandboxes()
			return prefixed("sandbox ", append(alive, dead...)), err
		}, Remove: in.removeSandboxes},
		{Name: "mounts", Find: func(context.Context) ([]string, error) {
			points, err := in.mounts()
			return prefixed("mount ", points), err
		}, Remove: func(context.Context) error {
			points, err := in.mounts()
			return errors.Join(err, unmountAll(h.unmount, points))
		}},
		{Name: "network", Find: in.Network.Find, Remove: in.Network.Remove},
		{Name: "kernel settings", Find: in.findKernel, Remove: in.removeKernel},
		{Name: "cgroups", Find: func(context.Context) ([]string, error) {
			return prefixed("cgroup ", cgroupDirs(h.path(), h.CgroupRoot, "")), nil
		}, Remove: func(context.Context) error { return removeDirs(cgroupDirs(h.path(), h.CgroupRoot, "")) }},
	}
}

// Uninstall runs the steps and tells what they remove; with dryRun it only tells. A step that fails does not keep
// the later ones back.
func Uninstall(ctx context.Context, steps []Step, dryRun bool, out io.Writer) error {
	verb := "remove"
	if dryRun {
		verb = "would remove"
	}
	var errs []error
	for _, step := range steps {
		found, err := step.Find(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("find %s: %w", step.Name, err))
		}
		for _, item := range found {
			if _, err := fmt.Fprintln(out, verb, item); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
		if dryRun {
			continue
		}
		if err := step.Remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", step.Name, err))
		}
	}
	return errors.Join(errs...)
}

func prefixed(prefix string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = prefix + s
	}
	return out
}

// dirs are the folders with our mounts, as the mount table spells them.
func (in Installation) dirs() []string {
	return []string{in.Host.path(in.RunDir), in.Host.path(in.DataDir)}
}

// mounts are those in our folders. A folder that is a mount point itself is the operator's file system, and stays.
func (in Installation) mounts() ([]string, error) {
	points, err := mountsBelow(in.Host.path(), in.dirs()...)
	return slices.DeleteFunc(points, func(point string) bool { return slices.Contains(in.dirs(), point) }), err
}

func (in Installation) ours() ([]process, error) {
	all, err := processes(in.Host.path())
	return slices.DeleteFunc(all, func(p process) bool { return !p.runsFrom(in.Host.Bundles) || p.pid == os.Getpid() }), err
}

func (in Installation) findProcesses(context.Context) ([]string, error) {
	list, err := in.ours()
	var names []string
	for _, p := range list {
		names = append(names, p.String())
	}
	return names, err
}

func (in Installation) removeProcesses(context.Context) error { return killAll(in.ours, in.Host.kill) }

func (in Installation) removeSandboxes(context.Context) error {
	alive, dead, err := in.Host.Sandboxes()
	errs := []error{err}
	for _, id := range append(alive, dead...) {
		errs = append(errs, in.Host.RemoveSandbox(id))
	}
	for _, dir := range []string{contract.KataSandboxes, contract.KataVMs, filepath.Dir(contract.KataVMs), contract.KataShares, filepath.Dir(contract.KataShares), contract.KataRun, shimSockets, filepath.Dir(shimSockets)} {
		in.removeIfEmpty(dir)
	}
	return errors.Join(errs...)
}

// removeIfEmpty removes a folder that others use as well only when nothing is in it.
func (in Installation) removeIfEmpty(dir string) { _ = syscall.Rmdir(in.Host.path(dir)) }

// HostNetwork is the Network of a real host.
type HostNetwork struct {
	IPTables string // programs of the bundle
	NFT      string
}

var _ Network = HostNetwork{}

// proxyTables are what kube-proxy makes in its nftables mode.
func proxyTables() [][]string { return [][]string{{"ip", "kube-proxy"}, {"ip6", "kube-proxy"}} }

// Find names links, chains and tables.
func (n HostNetwork) Find(ctx context.Context) ([]string, error) {
	links, err := netdev.PodLinks()
	if _, missing := net.InterfaceByName(netdev.Bridge); missing == nil {
		links = append(links, netdev.Bridge)
	}
	found := prefixed("link ", links)
	for _, chain := range [][]string{{"nat", netdev.PostroutingChain}, {"filter", netdev.ForwardChain}} {
		if exec.CommandContext(ctx, n.IPTables, "-t", chain[0], "-S", chain[1]).Run() == nil {
			found = append(found, "iptables chain "+chain[1])
		}
	}
	for _, table := range append(proxyTables(), []string{"inet", netdev.Table}, []string{"arp", netdev.Table}) {
		if n.hasTable(ctx, table) {
			found = append(found, "nftables table "+strings.Join(table, " "))
		}
	}
	return found, err
}

// iptablesTables are what iptables makes when it is first asked to add a chain of ours.
func iptablesTables() [][]string { return [][]string{{"ip", "filter"}, {"ip", "nat"}} }

// isBare tells whether a table, as nft lists it, holds nothing but built-in chains that accept everything: it has no
// effect, and iptables makes it again when somebody wants it.
func isBare(listing string) bool {
	chains, builtIns := 0, 0
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line == "}" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "table "):
		case strings.HasPrefix(line, "chain "):
			chains++
		case strings.HasPrefix(line, "type ") && strings.Contains(line, " hook ") && strings.HasSuffix(line, "policy accept;"):
			builtIns++
		default:
			return false
		}
	}
	return chains == builtIns
}

// removeBare removes the tables of iptables if nobody uses them.
func (n HostNetwork) removeBare(ctx context.Context) error {
	var errs []error
	for _, table := range iptablesTables() {
		listing, err := exec.CommandContext(ctx, n.NFT, "list", "table", table[0], table[1]).Output()
		if err == nil && isBare(string(listing)) { // an error: there is none
			errs = append(errs, n.deleteTable(ctx, table))
		}
	}
	return errors.Join(errs...)
}

func (n HostNetwork) deleteTable(ctx context.Context, table []string) error {
	if out, err := exec.CommandContext(ctx, n.NFT, "delete", "table", table[0], table[1]).CombinedOutput(); err != nil {
		return fmt.Errorf("remove nftables table %s %s: %w: %s", table[0], table[1], err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (n HostNetwork) hasTable(ctx context.Context, table []string) bool {
	return exec.CommandContext(ctx, n.NFT, append([]string{"list", "table"}, table...)...).Run() == nil
}

// Remove takes links, chains and tables away.
func (n HostNetwork) Remove(ctx context.Context) error {
	errs := []error{netdev.Remove(netdev.Config{IPTables: n.IPTables, NFT: n.NFT}), n.removeBare(ctx)}
	for _, table := range proxyTables() {
		if n.hasTable(ctx, table) {
			errs = append(errs, n.deleteTable(ctx, table))
		}
	}
	return errors.Join(errs...)
}
