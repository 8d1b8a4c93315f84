// Package orphans collects orphans: it clears the host of what crashes have left of microVMs. It does so once before containerd starts,
// and then for those whose shim dies and whose clean-up fails while the server runs. pkg/worker runs it first. What a microVM leaves is
// known to pkg/teardown. Bundles of earlier versions are orphans when their last Pod has gone.
package orphans

import (
	"context"
	"log/slog"
	"time"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/teardown"
)

// interval is how often the host is looked at. A sandbox is removed when it had no shim at two looks: between the two
// lists of one look it may have been born, and containerd may be cleaning up itself.
const interval = time.Minute

// Collector is the component.
type Collector struct {
	host    teardown.Host
	bundles string // where bundles are unpacked, "" for nowhere
	log     *slog.Logger
	ready   chan struct{} // closed when the host is clean
}

var (
	_ run.Component = (*Collector)(nil)
	_ run.Readier   = (*Collector)(nil)
)

// New gives a component that has not touched the host yet. bundles is the folder that bundles are unpacked in.
func New(host teardown.Host, bundles string, log *slog.Logger) *Collector {
	return &Collector{host: host, bundles: bundles, log: log, ready: make(chan struct{})}
}

// Name is "orphans".
func (c *Collector) Name() string { return "orphans" }

// Run collects orphans until ctx ends. What cannot be removed is no reason not to run Pods.
func (c *Collector) Run(ctx context.Context) error {
	if err := teardown.CollectOrphans(ctx, c.host, c.log); err != nil {
		c.log.Warn("remains of earlier microVMs not removed", "error", err)
	}
	close(c.ready)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	suspects := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			suspects = c.look(suspects)
			c.removeBundles()
		}
	}
}

// look removes the dead sandboxes that were suspects already, and returns the next suspects.
func (c *Collector) look(suspects map[string]bool) map[string]bool {
	_, dead, err := c.host.Sandboxes()
	if err != nil {
		c.log.Warn("remains of microVMs not looked for", "error", err)
		return suspects
	}
	next := map[string]bool{}
	for _, id := range dead {
		if !suspects[id] {
			next[id] = true
			continue
		}
		err := c.host.RemoveSandbox(id)
		c.log.Warn("removed what a dead shim had left", "sandbox", id, "error", err)
	}
	return next
}

// removeBundles removes the bundles that Pods of an earlier version have run from.
func (c *Collector) removeBundles() {
	if c.bundles == "" {
		return
	}
	removed, err := bundle.RemoveUnused(c.bundles)
	if err != nil {
		c.log.Warn("bundles of earlier versions not removed; they take room and do nothing else", "error", err)
	}
	for _, hash := range removed {
		c.log.Info("removed the bundle of an earlier version: nothing runs from it any more", "bundle", hash)
	}
}

// Ready waits until the host has no orphans.
func (c *Collector) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
