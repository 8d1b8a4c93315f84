package rules

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes refuses every volume but those of a few kinds: all others are mounted by the host's kernel or run a program of the host, by what
// the Pod says. A kind that a later Kubernetes adds is refused until it is named here.
func (r *report) volumes(base *field.Path, spec *corev1.PodSpec, at where) {
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		rest := v.VolumeSource
		rest.EmptyDir, rest.ConfigMap, rest.Secret, rest.DownwardAPI = nil, nil, nil, nil
		rest.PersistentVolumeClaim, rest.Ephemeral, rest.Image = nil, nil, nil
		if rest.Projected != nil {
			r.projections(base.Child("spec", "volumes").Index(i).Child("projected", "sources"), v)
			rest.Projected = nil
		}
		if at.exempt || at.settings.hostPath(at.namespace) {
			rest.HostPath = nil
		}
		if rest == (corev1.VolumeSource{}) { // of pointers only, and one that says nothing is an emptyDir
			continue
		}
		kind := fieldOf(rest)
		text := fmt.Sprintf("volume %s: the host itself would mount it, by what the Pod says. A Pod has volumes of the kinds emptyDir, configMap, secret, downwardAPI, projected, image, "+
			"ephemeral and persistentVolumeClaim; ask the operator for a PersistentVolume or a StorageClass of what you need", quote(v.Name))
		if rest.HostPath != nil {
			text = fmt.Sprintf("volume %s: a Pod is a microVM of its own and has no files of a host. "+
				"Use emptyDir for what may go with the Pod, a ConfigMap or a Secret for files to read, a PersistentVolumeClaim for what must stay", quote(v.Name))
		}
		r.deny(field.Forbidden(base.Child("spec", "volumes").Index(i).Child(kind), text))
	}
}

// projections refuses parts of a projected volume of other kinds than these.
func (r *report) projections(at *field.Path, v *corev1.Volume) {
	for i, rest := range v.Projected.Sources {
		rest.ConfigMap, rest.Secret, rest.DownwardAPI, rest.ServiceAccountToken = nil, nil, nil, nil
		rest.ClusterTrustBundle, rest.PodCertificate = nil, nil
		if rest != (corev1.VolumeProjection{}) {
			r.deny(field.Forbidden(at.Index(i).Child(fieldOf(rest)),
				fmt.Sprintf("volume %s: there is none here; configMap, secret, downwardAPI, serviceAccountToken, clusterTrustBundle and podCertificate can be projected", quote(v.Name))))
		}
	}
}

// fieldOf names the first field of a union that is set, as JSON has it.
func fieldOf(union any) string {
	value := reflect.ValueOf(union)
	for i := range value.NumField() {
		if !value.Field(i).IsZero() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}

// SharedClaims warns of claims that another Pod mounts as well. The claims are those of a Pod, or of a template that stands at base. with
// says which Pod that is, or nothing.
func SharedClaims(base *field.Path, spec *corev1.PodSpec, with func(claim string) string) []string {
	var r report
	for i := range spec.Volumes {
		claim := spec.Volumes[i].PersistentVolumeClaim
		if claim == nil || claim.ReadOnly {
			continue
		}
		if other := with(claim.ClaimName); other != "" {
			r.warn(base.Child("spec", "volumes").Index(i).Child("persistentVolumeClaim"), SharedClaim(claim.ClaimName, other))
		}
	}
	return r.findings(base.Child("spec")).Warnings
}

// SharedClaim says what it means that another Pod mounts a claim as well.
func SharedClaim(claim, other string) string {
	return fmt.Sprintf("claim %s is mounted by %s as well. A lock (flock, fcntl) of one Pod does not hold for another, since each has a kernel of its own: "+
		"let one Pod write at a time", quote(claim), other)
}
