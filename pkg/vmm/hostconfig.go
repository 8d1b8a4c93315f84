package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/hint"
)

// What HostConfig.Accel may be.
const (
	AccelKVM = contract.AccelKVM
	AccelTCG = contract.AccelTCG
)

const maxRootPorts = lastPortSlot - firstPortSlot + 1

// HostConfig is what every microVM of a host has in common: the settings of the contract, and what follows from them.
type HostConfig contract.HostConfig

// LoadHostConfig reads the file that the worker wrote.
func LoadHostConfig(path string) (HostConfig, error) {
	if path == "" {
		return HostConfig{}, &hint.Error{Op: "find", On: "VMM configuration", Err: errors.New(contract.ConfigEnv + " is not set"),
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
	errs = append(errs, Disk(c.Disk).validate())
	if c.RootPorts < 0 || c.RootPorts > maxRootPorts {
		errs = append(errs, fmt.Errorf("rootPorts: %d is not between 0 and %d", c.RootPorts, maxRootPorts))
	}
	if c.RootPortWindowMiB < 0 {
		errs = append(errs, fmt.Errorf("rootPortWindowMiB: %d is negative", c.RootPortWindowMiB))
	}
	return errors.Join(errs...)
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

// VMM is the bundled nodeless-vmm.
func (c HostConfig) VMM() string { return filepath.Join(c.Bundle, "bin", contract.VMM) }

// FirmwareDir holds QEMU's firmware and option ROMs.
func (c HostConfig) FirmwareDir() string { return filepath.Join(c.Bundle, "qemu", "share") }

// ScratchTemplate is the empty file system that a Pod's writable disk begins as.
func (c HostConfig) ScratchTemplate() string { return filepath.Join(c.Bundle, "guest", "scratch.ext4") }
