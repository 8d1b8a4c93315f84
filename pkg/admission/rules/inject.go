package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxLabel is the length of a DNS label: of the name of a container or a volume.
const maxLabel = 63

// Inject adds the containers of those DaemonSets that ask for it to a new Pod whose namespace is set, and tells their
// names, none if there was nothing to add. It does something under PolicyInject only. It adds sidecars and volumes
// and, within one namespace, pull secrets; what the Pod has is not changed. A Pod that has a DaemonSet's container
// already is left as it is, so that calling it again adds nothing.
//
// Sidecars (init containers that are restarted always) let a Job's Pod end. They have no resources, so the Pod's size and
// price stay, and no probe that its start or its readiness would hang on.
func Inject(pod *corev1.Pod, sets []appsv1.DaemonSet, settings Settings) (added []string) {
	if settings.DaemonSets != PolicyInject || pod.Namespace == metav1.NamespaceSystem {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "DaemonSet" {
		return nil
	}
	var fit []*appsv1.DaemonSet
	for i := range sets {
		if meantFor(&sets[i], pod, settings) {
			fit = append(fit, &sets[i])
		}
	}
	slices.SortStableFunc(fit, func(a, b *appsv1.DaemonSet) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	before := pod.Spec.InitContainers
	for _, ds := range fit {
		added = append(added, companionsOf(pod, ds, before).add()...)
	}
	return added
}

// meantFor tells whether the containers of a DaemonSet go into a Pod: into those of its own namespace, and into those of others where it is
// the operator's. Whoever may write a DaemonSet that goes into a Pod has what the Pod has.
func meantFor(ds *appsv1.DaemonSet, pod *corev1.Pod, settings Settings) bool {
	var r report
	if r.injectable(ds); len(r.found.Denials) > 0 || ds.DeletionTimestamp != nil {
		return false // it was there before the policy, or is about to go
	}
	if value, ok := ds.Spec.Template.Annotations[dsInjectByLabel]; ok {
		key, want, err := label(value)
		if have, ok := pod.Labels[key]; err != nil || !ok || have != want {
			return false
		}
	}
	return ds.Namespace == pod.Namespace || settings.injectsFrom(ds.Namespace) && !bound(&ds.Spec.Template.Spec)
}

// bound tells whether a template names an object of its own namespace.
func bound(spec *corev1.PodSpec) bool {
	if len(spec.ImagePullSecrets) > 0 {
		return true
	}
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil || v.Secret != nil {
			return true
		}
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ConfigMap != nil || s.Secret != nil }) {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(spec.InitContainers, spec.Containers), func(c corev1.Container) bool {
		return len(c.EnvFrom) > 0 || slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
			return e.ValueFrom != nil && (e.ValueFrom.ConfigMapKeyRef != nil || e.ValueFrom.SecretKeyRef != nil)
		})
	})
}

// companions is one DaemonSet on its way into one Pod.
type companions struct {
	pod        *corev1.Pod
	ds         *appsv1.DaemonSet
	containers map[string]string // the DaemonSet's name of each container, and its name in the Pod
	volumes    map[string]string // the same of volumes
	there      bool              // the Pod had one of the containers before
}

// companionsOf names the containers and volumes of a DaemonSet as the Pod will have them; before are the init containers
// that the Pod came with.
func companionsOf(pod *corev1.Pod, ds *appsv1.DaemonSet, before []corev1.Container) *companions {
	c := &companions{pod: pod, ds: ds, containers: map[string]string{}, volumes: map[string]string{}}
	taken := map[string]bool{}
	for _, name := range c.containersTaken() {
		taken[name] = true
	}
	for _, one := range c.all() {
		c.containers[one.Name] = unique(ds, one.Name, func(name string) bool {
			if !taken[name] {
				return false
			}
			c.there = c.there || has(before, name, &one)
			return true
		})
		taken[c.containers[one.Name]] = true
	}
	taken = map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		taken[v.Name] = true
	}
	for _, v := range ds.Spec.Template.Spec.Volumes {
		c.volumes[v.Name] = unique(ds, v.Name, func(name string) bool { return taken[name] })
		taken[c.volumes[v.Name]] = true
	}
	return c
}

// all is every container of the DaemonSet, in the order of their start.
func (c *companions) all() []corev1.Container {
	return slices.Concat(c.ds.Spec.Template.Spec.InitContainers, c.ds.Spec.Template.Spec.Containers)
}

// containersTaken is every name of a container that the Pod has.
func (c *companions) containersTaken() (names []string) {
	for _, one := range slices.Concat(c.pod.Spec.InitContainers, c.pod.Spec.Containers) {
		names = append(names, one.Name)
	}
	for _, one := range c.pod.Spec.EphemeralContainers {
		names = append(names, one.Name)
	}
	return names
}

// has tells whether the DaemonSet's container one is among those of a Pod under a name.
func has(containers []corev1.Container, name string, one *corev1.Container) bool {
	return slices.ContainsFunc(containers, func(have corev1.Container) bool {
		return have.Name == name && have.Image == one.Image && sidecar(&have)
	})
}

// add puts the containers into the Pod and tells their names.
func (c *companions) add() (added []string) {
	if c.there {
		return nil
	}
	template := &c.ds.Spec.Template.Spec
	for _, v := range template.Volumes {
		v = *v.DeepCopy()
		v.Name = c.volumes[v.Name]
		if v.DownwardAPI != nil {
			c.rename(v.DownwardAPI.Items)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.DownwardAPI != nil {
					c.rename(source.DownwardAPI.Items)
				}
			}
		}
		c.pod.Spec.Volumes = append(slices.Clip(c.pod.Spec.Volumes), v)
	}
	for _, one := range c.all() {
		companion := c.companion(one.DeepCopy())
		c.pod.Spec.InitContainers = append(slices.Clip(c.pod.Spec.InitContainers), companion)
		added = append(added, companion.Name)
	}
	for _, secret := range template.ImagePullSecrets { // of the Pod's own namespace, else it is not meant for the Pod
		if !slices.Contains(c.pod.Spec.ImagePullSecrets, secret) {
			c.pod.Spec.ImagePullSecrets = append(slices.Clip(c.pod.Spec.ImagePullSecrets), secret)
		}
	}
	return added
}

// companion makes a container of the DaemonSet one of the Pod.
func (c *companions) companion(one *corev1.Container) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	one.Name = c.containers[one.Name]
	one.RestartPolicy, one.RestartPolicyRules = &always, nil
	one.Resources, one.ResizePolicy = corev1.ResourceRequirements{}, nil
	one.ReadinessProbe, one.StartupProbe = nil, nil
	if one.Lifecycle != nil {
		if one.Lifecycle.StopSignal = nil; one.Lifecycle.PostStart == nil && one.Lifecycle.PreStop == nil { // a signal needs an os in the Pod
			one.Lifecycle = nil
		}
	}
	for i := range one.Ports {
		one.Ports[i].HostPort, one.Ports[i].HostIP = 0, ""
	}
	for i := range one.VolumeMounts {
		one.VolumeMounts[i].Name = c.volumes[one.VolumeMounts[i].Name]
	}
	for _, env := range one.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.ResourceFieldRef; ref != nil && ref.ContainerName != "" {
			ref.ContainerName = c.containers[ref.ContainerName]
		}
	}
	inherit(one, c.ds.Spec.Template.Spec.SecurityContext)
	return *one
}

// inherit gives a container what its DaemonSet says of all of its containers: in the Pod, the Pod says it.
func inherit(one *corev1.Container, pod *corev1.PodSecurityContext) {
	if pod == nil || pod.RunAsUser == nil && pod.RunAsGroup == nil && pod.RunAsNonRoot == nil && pod.SeccompProfile == nil && pod.AppArmorProfile == nil {
		return
	}
	if one.SecurityContext == nil {
		one.SecurityContext = &corev1.SecurityContext{}
	}
	own, pod := one.SecurityContext, pod.DeepCopy()
	own.RunAsUser = cmp.Or(own.RunAsUser, pod.RunAsUser)
	own.RunAsGroup = cmp.Or(own.RunAsGroup, pod.RunAsGroup)
	own.RunAsNonRoot = cmp.Or(own.RunAsNonRoot, pod.RunAsNonRoot)
	own.SeccompProfile = cmp.Or(own.SeccompProfile, pod.SeccompProfile)
	own.AppArmorProfile = cmp.Or(own.AppArmorProfile, pod.AppArmorProfile)
}

// rename lets the items of a volume name the containers as the Pod does.
func (c *companions) rename(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if ref := items[i].ResourceFieldRef; ref != nil {
			ref.ContainerName = c.containers[ref.ContainerName]
		}
	}
}

// unique is the name in a Pod of a part of a DaemonSet, a DNS label: "<DaemonSet>-<part>", with a hash if that is too
// long or taken. Asking for the same again gives the same.
func unique(ds *appsv1.DaemonSet, part string, taken func(name string) bool) string {
	name := labelled(ds.Name + "-" + part)
	if len(name) <= maxLabel && !taken(name) {
		return name
	}
	for n := 0; ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%s/%d", ds.Namespace, ds.Name, part, n))
		suffix := "-" + hex.EncodeToString(sum[:4])
		hashed := strings.TrimRight(name[:min(len(name), maxLabel-len(suffix))], "-") + suffix
		if !taken(hashed) {
			return hashed
		}
	}
}

// labelled writes a name with the characters of a DNS label, of which it has at least one.
func labelled(name string) string {
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name), "-")
	return cmp.Or(name, "ds")
}
