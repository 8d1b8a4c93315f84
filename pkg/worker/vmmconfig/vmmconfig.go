// Package vmmconfig decides how this host's microVMs run and writes it down for nodeless-vmm. pkg/worker runs it
// beside the control plane's start, for a first probe of KVM boots a kernel and takes seconds.
package vmmconfig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/vmm"
	"github.com/nodeless/nodeless/pkg/vmm/probe"
)

const (
	// Auto is KVM, if the probe finds that it can be trusted. Emulation is never fallen back to: it has to be asked for, since QEMU does not
	// call it a security boundary.
	Auto = "auto"
	// Any is KVM where it can be trusted and emulation elsewhere, for tests and demonstrations.
	Any = "any"
)

// Config says what to write where.
type Config struct {
	File string         // what nodeless-vmm reads
	Host vmm.HostConfig // Accel is filled in
	Want string         // Auto, Any, vmm.AccelKVM or vmm.AccelTCG

	// HugePages has the kernel make guests' memory of huge pages, in place of settings of its own that say never.
	HugePages bool

	ClusterID func() (string, error) // whose microVMs these are; Host.ClusterID is filled in by it
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.File == "" {
		errs = append(errs, errors.New("vmm-config: no file to write"))
	}
	if known := []string{Auto, Any, vmm.AccelKVM, vmm.AccelTCG}; !slices.Contains(known, c.Want) {
		errs = append(errs, fmt.Errorf("vmm-config: accel %q is none of %s", c.Want, strings.Join(known, ", ")))
	}
	return errors.Join(errs...)
}

// Writer is the component.
type Writer struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when the file is written
	probe func(context.Context, vmm.HostConfig) (probe.Answer, error)
}

var (
	_ run.Component = (*Writer)(nil)
	_ run.Readier   = (*Writer)(nil)
)

// New gives a component that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Writer {
	return &Writer{cfg: cfg, log: log, ready: make(chan struct{}), probe: probe.Probe}
}

// Name is "vmm-config".
func (w *Writer) Name() string { return "vmm-config" }

// Run writes the file and then waits for ctx to end: running microVMs have read it already.
func (w *Writer) Run(ctx context.Context) error {
	if err := w.cfg.Validate(); err != nil {
		return err
	}
	host, err := w.choose(ctx)
	if err != nil {
		return err
	}
	if w.cfg.HugePages {
		if err := adviseHugePages(thpFolder); err != nil {
			return err
		}
	}
	if w.cfg.ClusterID != nil {
		if host.ClusterID, err = w.cfg.ClusterID(); err != nil {
			return err
		}
	}
	if err := host.Validate(); err != nil {
		return fmt.Errorf("check VMM configuration: %w", err)
	}
	raw, err := json.MarshalIndent(host, "", "  ")
	if err != nil {
		return fmt.Errorf("encode VMM configuration: %w", err)
	}
	if err := atomicfile.Write(w.cfg.File, raw, 0o600); err != nil {
		return err
	}
	close(w.ready)
	<-ctx.Done()
	return nil
}

func (w *Writer) choose(ctx context.Context) (vmm.HostConfig, error) {
	host := w.cfg.Host
	how := probe.Answer{Accel: vmm.AccelTCG, Detail: "asked for"}
	if w.cfg.Want != vmm.AccelTCG {
		var err error
		if how, err = w.probe(ctx, host); err != nil {
			return host, err
		}
		if how, err = w.judge(how); err != nil {
			return host, err
		}
	}
	host.Accel = how.Accel
	khz, source, err := vmm.TSCKHz()
	if err != nil {
		w.log.Debug("rate of the time stamp counter unknown", "error", err) // the guest measures it
	} else {
		host.TSCKHz = khz
	}
	if how.Accel == vmm.AccelTCG {
		w.log.Warn("microVMs run under emulation, slowly, and Pods are not kept from each other as well as on KVM", "why", how.Detail, "tsc", source)
	} else {
		w.log.Info("microVMs run on KVM", "probe", how.Detail)
	}
	return host, nil
}

// judge makes what was asked for of what was found. Who asks for KVM is believed where there is one: a trial boot has limits of its own.
func (w *Writer) judge(how probe.Answer) (probe.Answer, error) {
	switch {
	case how.Accel == vmm.AccelKVM || w.cfg.Want == Any:
		return how, nil
	case w.cfg.Want == vmm.AccelKVM && how.Cause.Doubtful():
		w.log.Warn("KVM is used since it was asked for, though a trial boot failed", "why", how.Detail)
		return probe.Answer{Accel: vmm.AccelKVM, Detail: "asked for"}, nil
	}
	return how, &hint.Error{Op: "use", On: "/dev/kvm", Err: errors.New(how.Detail), Do: how.Cause.Do() +
		". If all Pods may trust each other, --accel=tcg (accel: tcg in the configuration, NODELESS_ACCEL=tcg for install.sh) emulates: slow, and no security boundary"}
}

// Ready waits until microVMs can be started.
func (w *Writer) Ready(ctx context.Context) error {
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
