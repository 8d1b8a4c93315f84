package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// TryBoot boots the bundled guest once, as a Pod's microVM is booted, and waits until its agent answers or
// ctx ends. pkg/vmm/probe uses it: only a boot shows whether a host's KVM is fit for our kernel.
func TryBoot(ctx context.Context, cfg HostConfig) (err error) {
	dir, err := os.MkdirTemp("", "nodeless-try-")
	if err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	cfg.Debug = true        // a kernel that hangs must have said where
	cfg.ScratchDir, cfg.LogDir = dir, dir
	cfg.LifespanDir, cfg.Disk.ReservePercent = "", 0 // nobody's microVM
	v := newVM("try", cfg, slog.New(slog.DiscardHandler))
	defer func() {
		v.shutdown()
		err = errors.Join(err, v.cleanup(false))
	}()
	if err := v.create(tryConfig(cfg, filepath.Join(dir, "agent.sock"))); err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	if err := v.start(ctx); err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	select {
	case <-v.agent.ready:
		return nil
	case <-v.ended:
		return fmt.Errorf("try a boot: %w", v.reason)
	case <-ctx.Done():
		return fmt.Errorf("try a boot: the guest does not answer (%w); last on its console: %q", ctx.Err(), v.console.digest())
	}
}

func tryConfig(cfg HostConfig, socket string) []byte {
	raw, err := json.Marshal(map[string]any{
		"cpus":   map[string]any{"boot_vcpus": 1, "max_vcpus": 1},
		"memory": map[string]any{"size": 256 * mib},
		"payload": map[string]any{
			"kernel": filepath.Join(cfg.Bundle, "guest", "vmlinux"), "initramfs": filepath.Join(cfg.Bundle, "guest", "initrd"),
			"cmdline": "earlyprintk=serial",
		},
		"vsock": map[string]any{"socket": socket},
	})
	if err != nil {
		return nil // maps of strings and numbers always encode; create refuses an empty body
	}
	return raw
}
