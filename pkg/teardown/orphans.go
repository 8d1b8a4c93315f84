package teardown

import (
	"context"
	"errors"
	"log/slog"
)

// CollectOrphans removes what is left of our sandboxes whose shim is gone, and leaves those alone whose shim lives. Call it
// before containerd runs: a sandbox in the making would have no shim yet.
func CollectOrphans(ctx context.Context, h Host, log *slog.Logger) error {
	alive, dead, err := h.Sandboxes()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range dead {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, h.RemoveSandbox(id))
	}
	if len(alive)+len(dead) > 0 {
		log.Info("sandboxes of an earlier run", "running", len(alive), "removed", len(dead))
	}
	return errors.Join(errs...)
}
