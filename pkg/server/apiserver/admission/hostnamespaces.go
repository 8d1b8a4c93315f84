package admission

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
)

const (
	// HostNamespacesName is how --disable-admission-plugins knows the plugin about namespaces of the host.
	HostNamespacesName = "HostNamespaces"
	// HostNamespacesAnnotation lists in a Pod which namespaces of its host it asked for.
	HostNamespacesAnnotation = api.Own + "host-namespaces"
)

// hostNamespaces says in a Pod what hostNetwork, hostPID and hostIPC mean where each Pod is a microVM: its host is the
// microVM. It gets the Pod network, sees the processes of all of its containers, and shares the memory they share.
// Without it such a Pod would run with nothing but a loopback interface, and nobody would be told.
type hostNamespaces struct{ *admission.Handler }

var _ admission.MutationInterface = (*hostNamespaces)(nil)

// Admit is called for each new object.
func (*hostNamespaces) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := microVMPod(a)
	if err != nil || pod == nil {
		return err
	}
	delete(pod.Annotations, HostNamespacesAnnotation)
	asked := ownHost(&pod.Spec)
	if len(asked) == 0 {
		return nil
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[HostNamespacesAnnotation] = strings.Join(asked, ",")
	tell(ctx, a, fmt.Sprintf("host namespaces (%s): %s", strings.Join(asked, ", "), rules.OwnHost))
	return nil
}

// ownHost takes the Pod's wishes for namespaces of the host out and gives it what they mean in a microVM. Containers of
// a Pod share the network and the IPC namespace anyway.
func ownHost(spec *core.PodSpec) (asked []string) {
	if spec.HostNetwork {
		spec.HostNetwork = false
		for _, containers := range [][]core.Container{spec.InitContainers, spec.Containers} {
			for i := range containers {
				for j := range containers[i].Ports {
					containers[i].Ports[j].HostPort = 0 // the API has set it to the container's
				}
			}
		}
		asked = append(asked, "network")
	}
	if spec.HostPID {
		share := true
		spec.HostPID, spec.ShareProcessNamespace = false, &share
		asked = append(asked, "pid")
	}
	if spec.HostIPC {
		spec.HostIPC = false
		asked = append(asked, "ipc")
	}
	return asked
}

// microVMPod is the Pod of a request about a Pod that will run in a microVM, or nil.
func microVMPod(a admission.Attributes) (*core.Pod, error) {
	pod, err := requestedPod(a)
	if err != nil || pod == nil || pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != RuntimeClass {
		return nil, err
	}
	return pod, nil
}

// requestedPod is the Pod of a request about one, or nil.
func requestedPod(a admission.Attributes) (*core.Pod, error) {
	if a.GetResource().GroupResource() != core.Resource("pods") || a.GetSubresource() != "" {
		return nil, nil
	}
	pod, ok := a.GetObject().(*core.Pod)
	if !ok {
		return nil, fmt.Errorf("admit Pod: object is a %T", a.GetObject())
	}
	return pod, nil
}
