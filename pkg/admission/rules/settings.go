package rules

import (
	"errors"
	"fmt"
)

// HostPath is what becomes of Pods with hostPath volumes. Anything but HostPathAllow refuses them.
type HostPath string

// HostPathDeny refuses them, HostPathAllow lets the microVM have the path of the real host.
const (
	HostPathDeny  HostPath = "deny"
	HostPathAllow HostPath = "allow"
)

// Policy is what becomes of DaemonSets. Anything but PolicyRun and PolicyInject refuses them.
type Policy string

// PolicyDeny refuses DaemonSets, PolicyRun lets one Pod of each run on every host, and PolicyInject adds the containers of
// those that ask for it to other Pods.
const (
	PolicyDeny   Policy = "deny"
	PolicyRun    Policy = "run"
	PolicyInject Policy = "inject"
)

// Settings are the operator's choices. The zero Settings are the default ones: all that can be refused is.
type Settings struct {
	HostPath   HostPath
	DaemonSets Policy
}

// Validate names every setting that has no such value.
func (s Settings) Validate() error {
	var errs []error
	switch s.HostPath {
	case "", HostPathDeny, HostPathAllow:
	default:
		errs = append(errs, fmt.Errorf(`policy for hostPath volumes: %q: want "deny" or "allow"`, s.HostPath))
	}
	switch s.DaemonSets {
	case "", PolicyDeny, PolicyRun, PolicyInject:
	default:
		errs = append(errs, fmt.Errorf(`policy for DaemonSets: %q: want "deny", "run" or "inject"`, s.DaemonSets))
	}
	return errors.Join(errs...)
}
