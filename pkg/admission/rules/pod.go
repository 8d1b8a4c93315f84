package rules

import (
	"fmt"
	"net/netip"
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

// Pod reports on a new Pod. What it asks of its host's namespaces is left to the apiserver's admission, and its size to pkg/podsize. A
// Pod that is exempt runs in no microVM, by a RuntimeClass that whoever made it may use: the rules that keep it from its host do not
// hold.
func Pod(pod *corev1.Pod, settings Settings, exempt bool) Findings {
	r := report{spec: &pod.Spec}
	in := OnPod
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "DaemonSet" {
		in = OnDaemonSet
	}
	r.pod(nil, &pod.ObjectMeta, &pod.Spec, where{settings, pod.Namespace, exempt}, in)
	return r.findings(field.NewPath("spec"))
}

// PodUpdate reports on a Pod that is changed, by any of its subresources. It looks at the containers that can be added to it, and at
// annotations that are new. The API lets nothing else be changed that there is a rule about.
func PodUpdate(pod, old *corev1.Pod, exempt bool) Findings {
	var r report
	added := &corev1.PodSpec{EphemeralContainers: pod.Spec.EphemeralContainers}
	r.spec = added
	r.amounts(nil, added)
	r.containers(nil, added, exempt)
	at := field.NewPath("metadata", "annotations")
	for i := range table {
		k := &table[i]
		if value, ok := pod.Annotations[k.Key]; ok && k.State == Refused && value != old.Annotations[k.Key] {
			r.deny(field.Forbidden(at.Key(k.Key), k.Here))
		}
	}
	return r.findings(field.NewPath("spec"))
}

// where is what the rules depend on besides the Pod.
type where struct {
	settings  Settings
	namespace string
	exempt    bool
}

// pod reports on a Pod or a template of Pods, which stands at base; in is where its annotations are.
func (r *report) pod(base *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec, at where, in Place) {
	r.amounts(base, spec)
	r.volumes(base, spec, at)
	r.ports(base, meta, spec, at)
	r.containers(base, spec, at.exempt)
	if !at.exempt {
		r.sysctls(base, spec)
		r.labels(base, spec)
		if spec.HostUsers != nil && !*spec.HostUsers {
			r.deny(field.Forbidden(base.Child("spec", "hostUsers"), "a Pod in a microVM has no user namespace of its own; remove the field: root in the Pod is root of its microVM, not of the host"))
		}
	}
	r.annotations(base.Child("metadata", "annotations"), meta.Annotations, in)
}

// ports reports on ports of the host, and on the one that is reserved.
func (r *report) ports(base *field.Path, meta *metav1.ObjectMeta, spec *corev1.PodSpec, who where) {
	reserved, moved := reservedPort(meta.Annotations)
	check := func(list string, containers []corev1.Container) {
		for i := range containers {
			for j, port := range containers[i].Ports {
				at := func(name string) *field.Path {
					return base.Child("spec", list).Index(i).Child("ports").Index(j).Child(name)
				}
				if port.HostPort != 0 && !who.exempt && !(port.HostPort == port.ContainerPort && hostNetwork(meta, spec)) {
					r.hostPort(at, port, who.settings)
				}
				if port.Protocol == corev1.ProtocolSCTP {
					r.warn(at("protocol"), noSCTP)
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

// hostPort reports on a port of the host.
func (r *report) hostPort(at func(name string) *field.Path, port corev1.ContainerPort, settings Settings) {
	if !settings.HostPorts {
		r.deny(field.Forbidden(at("hostPort"), fmt.Sprintf("port %d of a host cannot be had: a Pod has an address of its own. "+
			"Remove hostPort and reach port %d by the Pod's address or by a Service", port.HostPort, port.ContainerPort)))
		return
	}
	if whose := settings.takenBy(port.HostPort); whose != "" {
		r.deny(field.Forbidden(at("hostPort"), fmt.Sprintf("port %d of every host is %s. Choose another one", port.HostPort, whose)))
	}
	if addr, err := netip.ParseAddr(port.HostIP); port.HostIP != "" && (err != nil || !addr.Is4()) {
		r.deny(field.Forbidden(at("hostIP"), "Pods have IPv4 alone. Leave it empty for all addresses of the host, or name one of IPv4"))
	}
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

// hostNamespaces says what a template's wishes for namespaces of the host mean. In a Pod they are taken out before this package sees it, by
// the apiserver's admission, which says the same.
func (r *report) hostNamespaces(base *field.Path, spec *corev1.PodSpec) {
	for _, f := range []struct {
		name  string
		asked bool
	}{{"hostNetwork", spec.HostNetwork}, {"hostPID", spec.HostPID}, {"hostIPC", spec.HostIPC}} {
		if f.asked {
			r.warn(base.Child("spec", f.name), OwnHost)
		}
	}
}

// OwnHost is what is said of a Pod that asks for namespaces of its host.
const OwnHost = "the host of a Pod is its microVM: it has the Pod network, and sees the processes and the IPC objects of its own containers"

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
