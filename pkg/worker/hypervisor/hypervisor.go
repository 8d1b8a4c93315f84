// Package hypervisor decides how this host's microVMs run and writes it down for nodeless-vmm. pkg/worker runs it
// beside the control plane's start, for a first probe of KVM boots a kernel and takes seconds.
package hypervisor

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

	ClusterID func() (string, error) // whose microVMs these are; Host.ClusterID is filled in by it
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.File == "" {
		errs = append(errs, errors.New("hypervisor: no file to write"))
	}
	if known := []string{Auto, Any, vmm.AccelKVM, vmm.AccelTCG}; !slices.Contains(known, c.Want) {
		errs = append(errs, fmt.Errorf("hypervisor: accel %q is none of %s", c.Want, strings.Join(known, ", ")))
	}
	return errors.Join(errs...)
}

// Hypervisor is the component.
type Hypervisor struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when the file is written
	probe func(context.Context, vmm.HostConfig) (accel, detail string, err error)
}

var (
	_ run.Component = (*Hypervisor)(nil)
	_ run.Readier   = (*Hypervisor)(nil)
)

// New gives a component that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Hypervisor {
	return &Hypervisor{cfg: cfg, log: log, ready: make(chan struct{}), probe: probe.Probe}
}

// Name is "hypervisor".
func (h *Hypervisor) Name() string { return "hypervisor" }

// Run writes the file and then waits for ctx to end: running microVMs have read it already.
func (h *Hypervisor) Run(ctx context.Context) error {
	if err := h.cfg.Validate(); err != nil {
		return err
	}
	host, err := h.choose(ctx)
	if err != nil {
		return err
	}
	if h.cfg.ClusterID != nil {
		if host.ClusterID, err = h.cfg.ClusterID(); err != nil {
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
	if err := atomicfile.Write(h.cfg.File, raw, 0o600); err != nil {
		return err
	}
	close(h.ready)
	<-ctx.Done()
	return nil
}

func (h *Hypervisor) choose(ctx context.Context) (vmm.HostConfig, error) {
	host := h.cfg.Host
	accel, detail := vmm.AccelTCG, "asked for"
	if h.cfg.Want != vmm.AccelTCG {
		var err error
		if accel, detail, err = h.probe(ctx, host); err != nil {
			return host, err
		}
		if accel != vmm.AccelKVM && h.cfg.Want != Any {
			return host, &hint.Error{Op: "use", On: "/dev/kvm", Err: errors.New(detail), Do: "enable virtualization in the BIOS (or nested virtualization around this machine). " +
				"Where nobody has to be kept from anybody, --accel=tcg (accel: tcg in the configuration, NODELESS_ACCEL=tcg for install.sh) emulates: slow, and no security boundary"}
		}
	}
	host.Accel = accel
	khz, source, err := vmm.TSCKHz()
	if err != nil {
		h.log.Debug("rate of the time stamp counter unknown", "error", err) // the guest measures it
	} else {
		host.TSCKHz = khz
	}
	if accel == vmm.AccelTCG {
		h.log.Warn("microVMs run under emulation, slowly, and Pods are not kept from each other as well as on KVM", "why", detail, "tsc", source)
	} else {
		h.log.Info("microVMs run on KVM", "probe", detail)
	}
	return host, nil
}

// Ready waits until microVMs can be started.
func (h *Hypervisor) Ready(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
