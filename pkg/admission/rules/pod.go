package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodeless/nodeless/pkg/api"
)

// usualMetricsPort is where the cloud serves a Pod's metrics.
const usualMetricsPort = 9100

// hostNamespaces is the annotation by which the apiserver's admission remembers what a Pod asked of its host.
const hostNamespaces = api.Own + "host-namespaces"

// Pod reports on a new Pod. What it asks of its host's namespaces is left to the apiserver's admission, and its size to pkg/spec.
func Pod(pod *corev1.Pod, settings Settings) Findings {
	var r report
	in := OnPod
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "DaemonSet" {
		in = OnDaemonSet
	}
	r.pod(nil, &pod.ObjectMeta, &pod.Spec, settings, in)
	return r.findings(field.NewPath("spec"))
}

// pod reports on a Pod or a template of Pods, which stands at base; in is where its annotations are.
func (r *report) pod(base *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec, settings Settings, in Place) {
	if settings.HostPath != HostPathAllow {
		r.hostPaths(base, spec)
	}
	r.ports(base, meta, spec)
	r.sysctls(base, spec)
	r.annotations(base.Child("metadata", "annotations"), meta.Annotations, in)
}

// hostPaths refuses volumes that would share a path of the real host with the microVM.
func (r *report) hostPaths(base *field.Path, spec *corev1.PodSpec) {
	for i := range spec.Volumes {
		if spec.Volumes[i].HostPath == nil {
			continue
		}
		r.deny(field.Forbidden(base.Child("spec", "volumes").Index(i).Child("hostPath"), fmt.Sprintf("volume %s: a Pod is a microVM of its own and has no files of a host. "+
			"Use emptyDir for what may go with the Pod, a ConfigMap or a Secret for files to read, a PersistentVolumeClaim for what must stay", quote(spec.Volumes[i].Name))))
	}
}

// ports reports on ports of the host, which cannot be had, and on the one that is reserved.
func (r *report) ports(base *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	reserved, moved := reservedPort(meta.Annotations)
	check := func(list string, containers []corev1.Container) {
		for i := range containers {
			for j, port := range containers[i].Ports {
				at := func(name string) *field.Path {
					return base.Child("spec", list).Index(i).Child("ports").Index(j).Child(name)
				}
				if port.HostPort != 0 && !(port.HostPort == port.ContainerPort && hostNetwork(meta, spec)) {
					r.deny(field.Forbidden(at("hostPort"), fmt.Sprintf("port %d of a host cannot be had: a Pod has an address of its own. "+
						"Remove hostPort and reach port %d by the Pod's address or by a Service; from outside by one of type LoadBalancer", port.HostPort, port.ContainerPort)))
				}
				if port.ContainerPort == reserved && (port.Protocol == corev1.ProtocolTCP || port.Protocol == "") {
					r.warn(at("containerPort"), reservedText(reserved, moved))
				}
			}
		}
	}
	check("initContainers", spec.InitContainers)
	check("containers", spec.Containers)
}

// reservedText is the warning about the reserved port; moved says that an annotation chose it.
func reservedText(port int32, moved bool) string {
	text := fmt.Sprintf("%d/TCP is reserved for a metrics exporter of a later version; nothing else listens there today. ", port)
	if moved {
		return text + "Use another port here or in the annotation " + metricsPort
	}
	return text + "Use another port, or move the exporter by the annotation " + metricsPort
}

// reservedPort is the port of the metrics exporter, and whether an annotation moved it.
func reservedPort(annotations map[string]string) (port int32, moved bool) {
	if value, ok := annotations[metricsPort]; ok {
		if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 {
			return int32(n), n != usualMetricsPort
		}
	}
	return usualMetricsPort, false
}

// hostNetwork tells whether a Pod asked for its host's network. The apiserver then fills in each port as one of the host:
// that is nobody's wish.
func hostNetwork(meta *metav1.ObjectMeta, spec *corev1.PodSpec) bool {
	return spec.HostNetwork || slices.Contains(strings.Split(meta.Annotations[hostNamespaces], ","), "network")
}

// sysctls refuses those that TKE Serverless has no way to set, except for the one beside net.* that every kubelet takes.
func (r *report) sysctls(base *field.Path, spec *corev1.PodSpec) {
	if spec.SecurityContext == nil {
		return
	}
	for i := range spec.SecurityContext.Sysctls {
		name := spec.SecurityContext.Sysctls[i].Name
		if dotted := dots(name); strings.HasPrefix(dotted, "net.") || dotted == "kernel.shm_rmid_forced" {
			continue
		}
		r.deny(field.Forbidden(base.Child("spec", "securityContext", "sysctls").Index(i).Child("name"), fmt.Sprintf("sysctl %s cannot be set, only net.* and kernel.shm_rmid_forced can. "+
			"Remove it, or set it in a privileged init container (sysctl -w): the kernel is the Pod's own", quote(name))))
	}
}

// dots writes a sysctl's name with dots between its parts: with slashes it is as valid.
func dots(name string) string {
	if at := strings.IndexAny(name, "./"); at < 0 || name[at] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, name)
}
