package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/volume"
)

// podLimits has files of the downward API say the limits of a container that has none as its environment says them: they are its Pod's.
// Upstream's volumes say the node's, of which a host gives each CPU several times, and know nothing of Pod-level resources (1.37).
func podLimits(plugins []volume.VolumePlugin) []volume.VolumePlugin {
	wrapped := make([]volume.VolumePlugin, len(plugins))
	for i, p := range plugins {
		wrapped[i] = downwardPlugin{p}
	}
	return wrapped
}

// downwardPlugin is a plugin whose volumes may hold files of the downward API.
type downwardPlugin struct{ volume.VolumePlugin }

// NewMounter gives upstream's mounter a Pod whose containers all have limits.
func (p downwardPlugin) NewMounter(spec *volume.Spec, pod *corev1.Pod) (volume.Mounter, error) {
	return p.VolumePlugin.NewMounter(spec, withLimits(pod))
}

// withLimits is a Pod whose containers have its own limits where they have none.
func withLimits(pod *corev1.Pod) *corev1.Pod {
	if pod == nil || pod.Spec.Resources == nil {
		return pod
	}
	pod = pod.DeepCopy()
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			apiresource.MergeContainerResourceLimits(&containers[i], pod.Spec.Resources.Limits)
		}
	}
	return pod
}
