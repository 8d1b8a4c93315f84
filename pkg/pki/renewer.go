package pki

import (
	"context"
	"log/slog"
	"time"

	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// longestSleep bounds how long the renewer trusts the clock it went to sleep with.
	longestSleep = time.Hour
	// retryPause is the wait after a renewal that failed: there is a third of a life left to mend the cause.
	retryPause = time.Minute
)

// Renewer is the component that renews certificates at two thirds of their life while the server runs.
// Readers pick the files up by themselves: the apiserver, the kubelet and client-go reload them.
type Renewer struct {
	store     *Store
	onChanged func(names []string) error
	log       *slog.Logger
}

var _ run.Component = (*Renewer)(nil)

// NewRenewer gives a renewer of store. onChanged is called with the names that were rewritten, for whoever holds
// copies (the administrator's kubeconfig); an error of it is retried.
func NewRenewer(store *Store, onChanged func(names []string) error, log *slog.Logger) *Renewer {
	return &Renewer{store: store, onChanged: onChanged, log: log}
}

// Name is "certificates".
func (r *Renewer) Name() string { return "certificates" }

// Run renews until ctx ends. A failure is logged and tried again, for the old certificates are still valid.
func (r *Renewer) Run(ctx context.Context) error {
	var pending []string
	for {
		changed, next, err := r.store.Ensure()
		pending = append(pending, changed...)
		if err == nil && len(pending) > 0 {
			if err = r.onChanged(pending); err == nil {
				r.log.Info("certificates renewed", "names", pending)
				pending = nil
			}
		}
		wait := retryPause
		if err != nil {
			r.log.Error("certificates not renewed", "error", err, "retry", retryPause)
		} else {
			wait = min(max(next.Sub(r.store.cfg.Now()), time.Second), longestSleep)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
