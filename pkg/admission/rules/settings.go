package rules

import (
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Policy is what becomes of DaemonSets. The empty one is PolicyPark.
type Policy string

// PolicyPark takes DaemonSets and gives them no Pods, so that what they come with is taken as well. PolicyDeny refuses them, PolicyRun lets
// one Pod of each run on every host, and PolicyInject adds the containers of those that ask for it to other Pods.
const (
	PolicyPark   Policy = "park"
	PolicyDeny   Policy = "deny"
	PolicyRun    Policy = "run"
	PolicyInject Policy = "inject"
)

// Settings are the operator's choices. The zero Settings are the default ones.
type Settings struct {
	HostPath   []string // namespaces whose Pods may have hostPath volumes: paths of the real host, so whoever makes Pods there owns it
	DaemonSets Policy
	InjectFrom []string // namespaces besides kube-system whose DaemonSets are added to Pods of all others
	HostPorts  bool     // Pods may have ports of their host, but for those of Taken
	Taken      []Taken
}

// Taken are ports of a host, from Low to High, that are somebody's.
type Taken struct {
	Low, High int
	By        string // as in "the kubelet"
}

// takenBy names whose a port of the host is, empty for nobody's.
func (s Settings) takenBy(port int32) string {
	for _, t := range s.Taken {
		if int(port) >= t.Low && int(port) <= t.High {
			return t.By
		}
	}
	return ""
}

// Parked tells whether the DaemonSet controller is to make no Pods of DaemonSets.
func (p Policy) Parked() bool { return p == "" || p == PolicyPark || p == PolicyInject }

// noPods tells that DaemonSets have no Pods, and nobody else gets their containers.
func (p Policy) noPods() bool { return p == "" || p == PolicyPark }

// hostPath tells whether Pods of a namespace may have paths of the real host.
func (s Settings) hostPath(namespace string) bool { return slices.Contains(s.HostPath, namespace) }

// injectsFrom tells whether DaemonSets of a namespace are added to Pods of others.
func (s Settings) injectsFrom(namespace string) bool {
	return namespace == metav1.NamespaceSystem || slices.Contains(s.InjectFrom, namespace)
}

// Validate names every setting that has no such value.
func (s Settings) Validate() error {
	var errs []error
	for what, names := range map[string][]string{"hostPath volumes": s.HostPath, "DaemonSets for all": s.InjectFrom} {
		for _, name := range names {
			if len(validation.IsDNS1123Label(name)) > 0 {
				errs = append(errs, fmt.Errorf("%s: %q cannot be a namespace", what, name))
			}
		}
	}
	switch s.DaemonSets {
	case "", PolicyPark, PolicyDeny, PolicyRun, PolicyInject:
	default:
		errs = append(errs, fmt.Errorf(`policy for DaemonSets: %q: want "park", "deny", "run" or "inject"`, s.DaemonSets))
	}
	return errors.Join(errs...)
}
