package rules

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What is said of fields that no container has. The first is said by the apiserver's admission as well, before the API drops the field.
const (
	NoFileKeyRef = "variables are not read from files that a container has written: the host would read them. " +
		"Have the program read the file itself, or use a ConfigMap or a Secret"
	noHost    = "the host asks, in its own network; it asks the Pod and nobody else. Leave host empty; for another name in the request set the header Host"
	noWindows = "there is no Windows here. Remove it"
	noLabel   = "a label of SELinux is the host's to choose. Remove it; type container_t, and a level, are taken"
)

// containers reports on what containers of every kind ask of the host.
func (r *report) containers(base *field.Path, spec *corev1.PodSpec, exempt bool) {
	for i := range spec.InitContainers {
		r.container(base, "initContainers", i, &spec.InitContainers[i], exempt)
	}
	for i := range spec.Containers {
		r.container(base, "containers", i, &spec.Containers[i], exempt)
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		r.container(base, "ephemeralContainers", i, &c, exempt)
	}
}

// container reports on one of them, the index-th of a list.
func (r *report) container(base *field.Path, list string, index int, c *corev1.Container, exempt bool) {
	at := func(names ...string) *field.Path {
		return base.Child("spec", list).Index(index).Child(names[0], names[1:]...)
	}
	for i := range c.Env {
		if c.Env[i].ValueFrom != nil && c.Env[i].ValueFrom.FileKeyRef != nil {
			r.deny(field.Forbidden(at("env").Index(i).Child("valueFrom", "fileKeyRef"), NoFileKeyRef))
		}
	}
	if exempt { // it may have the host's network and its labels
		return
	}
	r.probe(at, "startupProbe", c.StartupProbe)
	r.probe(at, "livenessProbe", c.LivenessProbe)
	r.probe(at, "readinessProbe", c.ReadinessProbe)
	if c.Lifecycle != nil {
		r.hook(at, "postStart", c.Lifecycle.PostStart)
		r.hook(at, "preStop", c.Lifecycle.PreStop)
	}
	if sc := c.SecurityContext; sc != nil {
		r.security(sc.SELinuxOptions, sc.WindowsOptions, func() *field.Path { return at("securityContext") })
	}
}

// within is a path below a container.
type within func(names ...string) *field.Path

func (r *report) probe(at within, name string, p *corev1.Probe) {
	if p != nil {
		r.host(p.HTTPGet, p.TCPSocket, func() *field.Path { return at(name) })
	}
}

func (r *report) hook(at within, name string, h *corev1.LifecycleHandler) {
	if h != nil {
		r.host(h.HTTPGet, h.TCPSocket, func() *field.Path { return at("lifecycle", name) })
	}
}

// host refuses the name of another host in a probe or a hook. One of grpc has none.
func (r *report) host(http *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, at func() *field.Path) {
	if http != nil && http.Host != "" {
		r.deny(field.Forbidden(at().Child("httpGet", "host"), noHost))
	}
	if tcp != nil && tcp.Host != "" {
		r.deny(field.Forbidden(at().Child("tcpSocket", "host"), noHost))
	}
}

// labels reports on what the Pod as a whole asks of the host's security modules.
func (r *report) labels(base *field.Path, spec *corev1.PodSpec) {
	if sc := spec.SecurityContext; sc != nil {
		r.security(sc.SELinuxOptions, sc.WindowsOptions, func() *field.Path { return base.Child("spec", "securityContext") })
	}
}

// labelTypes are those that Kubernetes' own baseline standard takes: none of them gets out of a container.
var labelTypes = []string{"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

// security refuses labels by which the host would give a Pod's processes more than a Pod has, and what is for Windows.
func (r *report) security(label *corev1.SELinuxOptions, windows *corev1.WindowsSecurityContextOptions, at func() *field.Path) {
	if label != nil {
		for _, f := range []struct {
			name string
			bad  bool
		}{{"user", label.User != ""}, {"role", label.Role != ""}, {"type", !slices.Contains(labelTypes, label.Type)}} {
			if f.bad {
				r.deny(field.Forbidden(at().Child("seLinuxOptions", f.name), noLabel))
			}
		}
	}
	if windows != nil {
		r.deny(field.Forbidden(at().Child("windowsOptions"), noWindows))
	}
}

// Elsewhere is where a Pod says that it wants to be near Pods of other namespaces, or apart from them. One that wants to be apart from all
// others keeps them off its host.
func Elsewhere(base *field.Path, spec *corev1.PodSpec, namespace string) (at []*field.Path) {
	if spec.Affinity == nil {
		return nil
	}
	look := func(kind string, must []corev1.PodAffinityTerm, better []corev1.WeightedPodAffinityTerm) {
		list := base.Child("spec", "affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution")
		for i := range must {
			at = append(at, abroad(list.Index(i), &must[i], namespace)...)
		}
		list = base.Child("spec", "affinity", kind, "preferredDuringSchedulingIgnoredDuringExecution")
		for i := range better {
			at = append(at, abroad(list.Index(i).Child("podAffinityTerm"), &better[i].PodAffinityTerm, namespace)...)
		}
	}
	if a := spec.Affinity.PodAffinity; a != nil {
		look("podAffinity", a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := spec.Affinity.PodAntiAffinity; a != nil {
		look("podAntiAffinity", a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return at
}

// abroad is what of a term is about other namespaces.
func abroad(at *field.Path, term *corev1.PodAffinityTerm, namespace string) (all []*field.Path) {
	if term.NamespaceSelector != nil {
		all = append(all, at.Child("namespaceSelector"))
	}
	if slices.ContainsFunc(term.Namespaces, func(name string) bool { return name != namespace }) {
		all = append(all, at.Child("namespaces"))
	}
	return all
}
