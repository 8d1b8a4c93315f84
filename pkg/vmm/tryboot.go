package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// tryBounds are short: whoever tries waits for it, and a KVM that works shows it within a second or two. A guest that talks is given more
// time, and shows sooner that it does not get on.
func tryBounds(debug bool) bounds {
	if debug {
		return bounds{idle: 5 * time.Second, silent: 5 * time.Second, most: time.Minute}
	}
	return bounds{idle: 10 * time.Second, silent: 10 * time.Second, most: 10 * time.Second}
}

// TryBoot boots the bundled guest once, as a Pod's microVM is booted, and waits until its agent answers, there is no point in waiting, or
// ctx ends. pkg/vmm/probe uses it: only a boot shows whether a host's KVM is fit for our kernel. With cfg.Debug the guest says all the way
// where it is, which takes several times as long: each character is an exit from the guest. The error is ErrSlow if the guest got on all
// the time.
func TryBoot(ctx context.Context, cfg HostConfig) (err error) {
	dir, err := os.MkdirTemp("", "nodeless-try-")
	if err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	cfg.ScratchDir, cfg.LogDir = dir, dir
	cfg.RecordDir, cfg.Disk.ReservePercent = "", 0 // nobody's microVM
	v := newVM("try", cfg, slog.New(slog.DiscardHandler))
	v.jailed = by(cfg.VMM()) // this program may be another, which has no second stage
	defer func() {
		v.shutdown()
		err = errors.Join(err, v.cleanup(false))
	}()
	if err := v.create(tryConfig(cfg, filepath.Join(dir, "agent.sock"))); err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	if err := v.start(ctx, tryBounds(cfg.Debug)); err != nil {
		return fmt.Errorf("try a boot: %w", err)
	}
	return nil
}

func tryConfig(cfg HostConfig, socket string) []byte {
	payload := map[string]any{"kernel": filepath.Join(cfg.Bundle, "guest", "vmlinux"), "initramfs": filepath.Join(cfg.Bundle, "guest", "initrd")}
	payload["cmdline"] = "quiet"
	if cfg.Debug {
		payload["cmdline"] = "earlyprintk=serial" // a kernel that hangs must have said where
	}
	raw, err := json.Marshal(map[string]any{
		"cpus":    map[string]any{"boot_vcpus": 1, "max_vcpus": 1},
		"memory":  map[string]any{"size": 256 * mib},
		"payload": payload,
		"vsock":   map[string]any{"socket": socket},
	})
	if err != nil {
		return nil // maps of strings and numbers always encode; create refuses an empty body
	}
	return raw
}
