// Package bootstrap puts into a fresh cluster what belongs to it: the rights of our own components, the
// Service of the cluster's name server, and the RuntimeClass of microVMs. pkg/server
// starts it when the apiserver is ready. All of it is idempotent and repeated at every start, and what somebody removes or overwrites
// meanwhile is put back.
package bootstrap

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/metadata"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// retryPause is the wait after an attempt that failed.
const retryPause = 200 * time.Millisecond

// Config says what to apply.
type Config struct {
	Access      kube.Access
	Manifests   fs.FS    // holds the folders
	Dirs        []string // *.yaml in them are applied
	Absent      []string // what *.yaml in them name, and we applied once, is removed
	DNSService  netip.Addr
	DNSEndpoint netip.Addr
	AdminUser   func() (string, error) // who is bound to cluster-admin
}

// Bootstrap is the component.
type Bootstrap struct {
	cfg     Config
	log     *slog.Logger
	applied chan struct{} // closed when the cluster holds everything
}

var (
	_ run.Component = (*Bootstrap)(nil)
	_ run.Readier   = (*Bootstrap)(nil)
)

// New gives a bootstrap that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Bootstrap {
	return &Bootstrap{cfg: cfg, log: log, applied: make(chan struct{})}
}

// Name is "bootstrap".
func (b *Bootstrap) Name() string { return "bootstrap" }

// Run applies the manifests, trying again until the apiserver takes them all, and keeps them as they are until the end.
func (b *Bootstrap) Run(ctx context.Context) error {
	present, err := b.objects(b.cfg.Dirs)
	if err != nil {
		return err
	}
	absent, err := b.objects(b.cfg.Absent)
	if err != nil {
		return err
	}
	client, err := b.cfg.Access.Dynamic("nodeless-bootstrap")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	for attempt := 1; ; attempt++ {
		err = kube.Apply(ctx, client, present)
		if err == nil {
			err = kube.Remove(ctx, client, absent)
		}
		if err == nil {
			break
		}
		if attempt%25 == 0 {
			b.log.Warn("built-in objects not applied", "error", err, "attempt", attempt)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryPause):
		}
	}
	close(b.applied)
	watcher, err := metadata.NewForConfig(b.cfg.Access.RESTConfig("nodeless-bootstrap"))
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	return newKeeper(client, present, b.log).run(ctx, watcher)
}

// objects reads what the folders hold.
func (b *Bootstrap) objects(dirs []string) ([]*unstructured.Unstructured, error) {
	admin, err := b.cfg.AdminUser()
	if err != nil {
		return nil, fmt.Errorf("find the administrator's name: %w", err)
	}
	var all []*unstructured.Unstructured
	for _, dir := range dirs {
		found, err := kube.Manifests(b.cfg.Manifests, dir, map[string]string{
			"ADMIN_USER":   admin,
			"DNS_SERVICE":  b.cfg.DNSService.String(),
			"DNS_ENDPOINT": b.cfg.DNSEndpoint.String(),
		})
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Ready waits until the manifests are applied.
func (b *Bootstrap) Ready(ctx context.Context) error {
	select {
	case <-b.applied:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
