package rules

import (
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodeless/nodeless/pkg/api"
)

// eklet is the taint of the cloud's super nodes. A DaemonSet that is to be injected tolerates it.
const eklet = api.EKS + "eklet"

// DaemonSet reports on a new or changed DaemonSet under the operator's policy. What its own Pods would be refused for is
// found by Workload.
func DaemonSet(ds *appsv1.DaemonSet, policy Policy) Findings {
	var r report
	switch policy {
	case PolicyRun:
		r.warn(field.NewPath("kind"), "a DaemonSet runs one Pod on each host, in a microVM of its own: it sees neither the host nor other Pods")
	case PolicyInject:
		r.injectable(ds)
	case PolicyPark, "":
		r.warn(field.NewPath("kind"), "a DaemonSet is one Pod on each node, and every Pod here is a node of its own: this one is kept and has no Pods. "+
			"Switch it off in the chart's values, or use a sidecar or a Deployment. The operator can have it run on hosts or added to Pods")
	default:
		r.deny(field.Forbidden(field.NewPath("kind"), "a DaemonSet runs a Pod on every node, and here every Pod is a node of its own. "+
			"Use a sidecar container in the Pods that need it, or a Deployment. The operator can have DaemonSets added to Pods (policy inject, annotation "+
			dsInjection+`: "true" in the template) or run on every host (policy run)`))
	}
	return r.findings(field.NewPath("spec"))
}

// injectable refuses what cannot be added to Pods, each reason at once.
func (r *report) injectable(ds *appsv1.DaemonSet) {
	template := &ds.Spec.Template
	at := field.NewPath("spec", "template")
	if template.Annotations[dsInjection] != "true" {
		r.deny(field.Required(at.Child("metadata", "annotations").Key(dsInjection), `DaemonSets are added to Pods here (policy inject): set it to "true" to have this one added, or use a Deployment`))
	}
	if value, ok := template.Annotations[dsInjectByLabel]; ok {
		if _, _, err := label(value); err != nil {
			r.deny(field.Invalid(at.Child("metadata", "annotations").Key(dsInjectByLabel), cut(value), err.Error()))
		}
	}
	if !tolerates(template.Spec.Tolerations) {
		r.deny(field.Required(at.Child("spec", "tolerations"), "a DaemonSet that is added to Pods tolerates the taint of their nodes: add {key: "+eklet+", operator: Exists}"))
	}
	for i := range template.Spec.Volumes {
		if !carried(&template.Spec.Volumes[i]) {
			r.deny(field.Forbidden(at.Child("spec", "volumes").Index(i), fmt.Sprintf("volume %s cannot be taken into a Pod: emptyDir, configMap, secret, downwardAPI, "+
				"and projected ones of those can; neither a path of a host, a claim, nor a token, which would be the Pod's own", quote(template.Spec.Volumes[i].Name))))
		}
	}
	for i := range template.Spec.InitContainers {
		if !sidecar(&template.Spec.InitContainers[i]) {
			r.deny(field.Forbidden(at.Child("spec", "initContainers").Index(i), fmt.Sprintf("init container %s would hold up the Pod that it is added to: "+
				"do its work in a container, or set restartPolicy Always", quote(template.Spec.InitContainers[i].Name))))
		}
	}
	containers := func(list string, set []corev1.Container) {
		for i := range set {
			for j, port := range set[i].Ports {
				if port.HostPort != 0 && !template.Spec.HostNetwork {
					r.deny(field.Forbidden(at.Child("spec", list).Index(i).Child("ports").Index(j).Child("hostPort"),
						fmt.Sprintf("port %d of a host cannot be had: remove hostPort and reach the container by the address of the Pod it is added to", port.HostPort)))
				}
			}
		}
	}
	containers("initContainers", template.Spec.InitContainers)
	containers("containers", template.Spec.Containers)
	r.containers(at, &template.Spec, false) // or every Pod that it is added to would be refused
}

// label reads the value of ds-inject-by-label.
func label(value string) (key, want string, err error) {
	key, want, ok := strings.Cut(value, ":")
	if !ok || len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(want)) > 0 {
		return "", "", errors.New(`want key:value of a label, such as "app:web"`)
	}
	return key, want, nil
}

// tolerates tells whether one of the tolerations is for the taint of super nodes.
func tolerates(tolerations []corev1.Toleration) bool {
	for _, t := range tolerations {
		if (t.Key == eklet || t.Key == "" && t.Operator == corev1.TolerationOpExists) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule) {
			return true
		}
	}
	return false
}

// carried tells whether a volume of a DaemonSet can be taken into a Pod.
func carried(v *corev1.Volume) bool {
	switch {
	// A volume that says nothing is an emptyDir.
	case v.EmptyDir != nil, v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.VolumeSource == corev1.VolumeSource{}:
		return true
	case v.Projected == nil:
		return false
	}
	for _, source := range v.Projected.Sources {
		source.Secret, source.ConfigMap, source.DownwardAPI = nil, nil, nil
		if source != (corev1.VolumeProjection{}) {
			return false
		}
	}
	return true
}

// sidecar tells whether an init container runs beside the others.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
