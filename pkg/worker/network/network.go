// Package network keeps the host's part of the Pod network in place: devices, packet rules, and the CNI
// configuration that containerd reads. pkg/worker runs it before containerd. Rules that somebody takes away (`nft flush ruleset`, a
// restart of nftables.service) it sets again at once.
//
// At stop it takes nothing away, because Pods run on without us; pkg/teardown removes it all at uninstall.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/cidr"
	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// repairInterval is how often the host is compared with what it should look like, besides what Watch tells of.
	repairInterval = 30 * time.Second
	// settle is for how long rules that change are left to change.
	settle = 5 * time.Millisecond
)

// Config says what the network of this host is.
type Config struct {
	ClusterCIDR netip.Prefix // all Pods of all hosts
	PodCIDR     netip.Prefix // the Pods of this host
	ServiceCIDR netip.Prefix // only checked: it must not overlap
	ConfDir     string       // where containerd looks for CNI configuration
	DataDir     string       // where address allocations are kept
	MTU         int          // of Pod links; zero means cni.DefaultMTU
	Guard       netdev.Guard // its Services are ServiceCIDR
	NFT         string       // the program; empty means the one in PATH
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.ConfDir == "" || c.DataDir == "" {
		errs = append(errs, errors.New("network: no folder for CNI configuration or addresses"))
	}
	if !cidr.Contains(c.ClusterCIDR, c.PodCIDR) {
		errs = append(errs, fmt.Errorf("network: Pod range %s is outside of the cluster range %s", c.PodCIDR, c.ClusterCIDR))
	}
	if cidr.Overlap(c.ClusterCIDR, c.ServiceCIDR) {
		errs = append(errs, fmt.Errorf("network: cluster range %s and service range %s overlap", c.ClusterCIDR, c.ServiceCIDR))
	}
	if err := c.Guard.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("network: %w", err))
	}
	return errors.Join(errs...)
}

// Network is the component.
type Network struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when the host carries the gateway address
}

var (
	_ run.Component = (*Network)(nil)
	_ run.Readier   = (*Network)(nil)
)

// New gives a component that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Network {
	if cfg.MTU == 0 {
		cfg.MTU = cni.DefaultMTU
	}
	return &Network{cfg: cfg, log: log, ready: make(chan struct{})}
}

// Name is "network".
func (n *Network) Name() string { return "network" }

// Run sets the network up and repairs it until ctx ends. Only the first attempt may fail the process.
func (n *Network) Run(ctx context.Context) error {
	if err := n.cfg.Validate(); err != nil {
		return err
	}
	gateway, err := cidr.Nth(n.cfg.PodCIDR, 1)
	if err != nil {
		return err
	}
	host := netdev.Config{Gateway: gateway, ClusterCIDR: n.cfg.ClusterCIDR, Guard: n.cfg.Guard, NFT: n.cfg.NFT}
	host.Guard.Services = n.cfg.ServiceCIDR
	if err := n.writeConf(gateway); err != nil {
		return err
	}
	changes, err := netdev.Watch(ctx)
	if err != nil {
		return err
	}
	rules := netdev.NewRules(host)
	if _, err := n.apply(host, rules); err != nil {
		return err
	}
	close(n.ready)
	n.repair(ctx, changes, host, rules)
	return nil
}

// apply makes the host look as it should, and tells whether rules for Pods were not as they should be.
func (n *Network) apply(host netdev.Config, rules *netdev.Rules) (changed bool, err error) {
	err = cni.WithLinks(n.cfg.DataDir, func(links []netdev.Link) (err error) {
		changed, err = rules.Set(links)
		return err
	})
	return changed, errors.Join(err, netdev.Apply(host)) // the rules first: what they hold back must not wait
}

func (n *Network) repair(ctx context.Context, changes <-chan struct{}, host netdev.Config, rules *netdev.Rules) {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case _, more := <-changes:
			if !more { // nobody watches any more: the ticker still does
				changes = nil
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
		}
		switch changed, err := n.apply(host, rules); {
		case err != nil:
			n.log.Warn("host network not repaired", "error", err)
		case changed:
			n.log.Warn("packet rules for Pods had been changed by somebody else, and were set again")
		}
	}
}

func (n *Network) writeConf(gateway netip.Addr) error {
	conf, err := cni.ConfList(n.cfg.PodCIDR, gateway, n.cfg.DataDir, n.cfg.MTU, n.cfg.NFT, n.cfg.Guard.PodPorts)
	if err != nil {
		return err
	}
	for _, dir := range []string{n.cfg.ConfDir, n.cfg.DataDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder %s: %w", dir, err)
		}
	}
	return atomicfile.Write(filepath.Join(n.cfg.ConfDir, cni.ConfFile), conf, 0o600)
}

// Ready waits until the host carries the gateway address, so that others can bind it, and Pods can be connected.
func (n *Network) Ready(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
