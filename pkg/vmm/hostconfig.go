package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/hint"
)

// ConfigEnv names the environment variable that carries the path of the HostConfig from the worker
// through containerd and the shim to nodeless-vmm.
const ConfigEnv = "NODELESS_VMM_CONFIG"

// What HostConfig.Accel may be.
const (
	AccelKVM = "kvm" // hardware virtualisation
	AccelTCG = "tcg" // emulation: development and CI
)

const (
	defaultRootPorts = 8 // with hardware virtualisation; devices are not passed through to emulated machines
	maxRootPorts     = lastPortSlot - firstPortSlot + 1
)

// HostConfig is what every microVM of a host has in common. The worker writes it once as JSON.
type HostConfig struct {
	Bundle     string `json:"bundle"`           // the unpacked bundle
	Accel      string `json:"accel"`            // AccelKVM or AccelTCG
	TSCKHz     uint64 `json:"tscKHz,omitempty"` // rate of the host's time stamp counter; 0 lets the guest measure it
	ScratchDir string `json:"scratchDir"`       // where the Pods' writable disks live
	LogDir     string `json:"logDir"`           // one log and one console log per microVM
	Debug      bool   `json:"debug"`            // verbose guest kernel and adapter log

	RecordDir string `json:"lifespanDir,omitempty"` // where the microVMs' lives are recorded; empty for no record
	NodeName  string `json:"nodeName,omitempty"`    // this host's, for the record
	ClusterID string `json:"clusterID,omitempty"`   // of the cluster whose microVMs these are, for the record

	Disk Disk `json:"disk"`
	// LogRate is how many bytes a second all containers of a Pod say to their logs; 0 for no bound. The shim reads it (cmd/kata-shim).
	LogRate int64 `json:"logRate,omitempty"`

	// RootPorts is how many devices can be passed through to a microVM, 8 when zero under KVM. Each costs boot time.
	// Disks and NICs do not need one.
	RootPorts int `json:"rootPorts,omitempty"`
	// RootPortWindowMiB is the prefetchable 64-bit address window kept free behind each root port, for
	// passed-through devices with large BARs. Zero leaves the firmware's choice.
	RootPortWindowMiB int64 `json:"rootPortWindowMiB,omitempty"`
}

// LoadHostConfig reads the file that the worker wrote.
func LoadHostConfig(path string) (HostConfig, error) {
	if path == "" {
		return HostConfig{}, &hint.Error{Op: "find", On: "VMM configuration", Err: errors.New(ConfigEnv + " is not set"),
			Do: "start microVMs through `nodeless server` or `nodeless agent`, which set it"}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return HostConfig{}, fmt.Errorf("read VMM configuration: %w", err)
	}
	var c HostConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return HostConfig{}, fmt.Errorf("parse VMM configuration %s: %w", path, err)
	}
	if err := c.Validate(); err != nil {
		return HostConfig{}, fmt.Errorf("check VMM configuration %s: %w", path, err)
	}
	return c, nil
}

// Validate reports all faults at once.
func (c HostConfig) Validate() error {
	var errs []error
	for name, path := range map[string]string{"bundle": c.Bundle, "scratchDir": c.ScratchDir, "logDir": c.LogDir} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", name, path))
		}
	}
	if c.RecordDir != "" && !filepath.IsAbs(c.RecordDir) {
		errs = append(errs, fmt.Errorf("lifespanDir: %q is not an absolute path", c.RecordDir))
	}
	if c.Accel != AccelKVM && c.Accel != AccelTCG {
		errs = append(errs, fmt.Errorf("accel: %q is neither %q nor %q", c.Accel, AccelKVM, AccelTCG))
	}
	errs = append(errs, c.Disk.validate())
	if c.RootPorts < 0 || c.RootPorts > maxRootPorts {
		errs = append(errs, fmt.Errorf("rootPorts: %d is not between 0 and %d", c.RootPorts, maxRootPorts))
	}
	if c.RootPortWindowMiB < 0 {
		errs = append(errs, fmt.Errorf("rootPortWindowMiB: %d is negative", c.RootPortWindowMiB))
	}
	return errors.Join(errs...)
}

func (c HostConfig) rootPorts() int {
	if c.RootPorts == 0 && c.Accel == AccelKVM {
		return defaultRootPorts
	}
	return c.RootPorts
}

// QEMUCommand is how the bundled QEMU starts: by the bundled loader with the bundled libraries.
func (c HostConfig) QEMUCommand() []string {
	lib := filepath.Join(c.Bundle, "qemu", "lib")
	return []string{
		filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib,
		filepath.Join(c.Bundle, "qemu", "bin", "qemu-system-x86_64"),
	}
}

// QEMUEnv is the environment the bundled QEMU needs.
func (c HostConfig) QEMUEnv() []string {
	return []string{"QEMU_MODULE_DIR=" + filepath.Join(c.Bundle, "qemu", "modules"), "PATH=/nonexistent"}
}

// FirmwareDir holds QEMU's firmware and option ROMs.
func (c HostConfig) FirmwareDir() string { return filepath.Join(c.Bundle, "qemu", "share") }

// ScratchTemplate is the empty file system that an ordinary Pod's writable disk begins as, LargeScratchTemplate that of a larger one.
func (c HostConfig) ScratchTemplate() string { return filepath.Join(c.Bundle, "guest", "scratch.ext4") }
func (c HostConfig) LargeScratchTemplate() string {
	return filepath.Join(c.Bundle, "guest", "scratch-large.ext4")
}
