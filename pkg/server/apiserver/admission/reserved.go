package admission

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/pods"

	"github.com/nodeless/nodeless/pkg/admission/rules"
)

// who makes a Pod: whoever sends it, and the ServiceAccount that it runs with. A controller sends Pods for somebody else and has no
// rights of its own to what is reserved. So for its Pods the ServiceAccount decides.
type who struct {
	authorizer authorizer.Authorizer
	namespace  string
	sender     user.Info // nil for a Pod that a controller sends
	account    string    // the ServiceAccount's name
}

// daemonSets is the one controller of Kubernetes with a right to what is reserved: it may bind Pods. A DaemonSet is a tenant's all the
// same.
const daemonSets = serviceaccount.ServiceAccountUsernamePrefix + metav1.NamespaceSystem + ":daemon-set-controller"

// sender is the user whose rights count.
func sender(u user.Info) user.Info {
	if u == nil || u.GetName() == daemonSets {
		return nil
	}
	return u
}

// may tells whether one of them has a right in the namespace. Where that cannot be known, nobody has.
func (w who) may(ctx context.Context, ask authorizer.AttributesRecord) bool {
	ask.Namespace, ask.APIVersion, ask.ResourceRequest = w.namespace, "v1", true
	for _, u := range []user.Info{w.sender, serviceaccount.UserInfo(w.namespace, cmp.Or(w.account, "default"), "")} {
		if ask.User = u; u == nil {
			continue
		}
		if decision, _, _ := w.authorizer.Authorize(ctx, ask); decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// mayUseClass tells whether they have been given a RuntimeClass other than that of microVMs; there is nothing to give of that one.
func (w who) mayUseClass(ctx context.Context, class *string) bool {
	return class != nil && *class != RuntimeClass && w.may(ctx, authorizer.AttributesRecord{Verb: "use", APIGroup: nodev1.GroupName, Resource: "runtimeclasses", Name: *class})
}

// pod reports on a Pod that is new, or changed by itself or by one of its subresources.
func (r *ruling) pod(ctx context.Context, a admission.Attributes, object *core.Pod) (rules.Findings, error) {
	w := who{r.authorizer, a.GetNamespace(), sender(a.GetUserInfo()), object.Spec.ServiceAccountName}
	if a.GetOperation() != admission.Create {
		return r.podUpdate(ctx, a, object, w)
	}
	if err := r.await(a); err != nil {
		return rules.Findings{}, err
	}
	var pod corev1.Pod
	if err := legacyscheme.Scheme.Convert(object, &pod, nil); err != nil {
		return rules.Findings{}, fmt.Errorf("convert Pod: %w", err)
	}
	pod.Namespace = a.GetNamespace()
	exempt := w.mayUseClass(ctx, pod.Spec.RuntimeClassName)
	found := rules.Pod(&pod, r.settings, exempt)
	if !exempt { // outside of a microVM the kernel is the host's, and locks hold
		found.Warnings = append(found.Warnings, rules.SharedClaims(nil, &pod.Spec, func(claim string) string {
			return r.mounter(pod.Namespace, claim, func(other *corev1.Pod) bool { return other.Name == pod.Name })
		})...)
	}
	found.Denials = append(found.Denials, r.reserved(ctx, w, nil, &pod.Spec, exempt)...)
	return found, nil
}

// podUpdate reports on a changed Pod. A container that is added to one outside of a microVM, or made of another image, is as good as such
// a Pod.
func (r *ruling) podUpdate(ctx context.Context, a admission.Attributes, object *core.Pod, w who) (rules.Findings, error) {
	old, ok := a.GetOldObject().(*core.Pod)
	if !ok {
		return rules.Findings{}, fmt.Errorf("admit Pod: the old one is a %T", a.GetOldObject())
	}
	pod, was := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: object.Annotations}}, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: old.Annotations}}
	if a.GetSubresource() != "ephemeralcontainers" {
		found := rules.PodUpdate(pod, was, false)
		if at := changedImage(object, old); at != nil && w.outside(ctx, object.Spec.RuntimeClassName) {
			found.Denials = append(found.Denials, field.Forbidden(at, fmt.Sprintf(notGiven, "spec.runtimeClassName", *object.Spec.RuntimeClassName)))
		}
		return found, nil
	}
	for i := range object.Spec.EphemeralContainers {
		var c corev1.EphemeralContainer
		if err := legacyscheme.Scheme.Convert(&object.Spec.EphemeralContainers[i], &c, nil); err != nil {
			return rules.Findings{}, fmt.Errorf("convert container: %w", err)
		}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, c)
	}
	pod.Spec.RuntimeClassName = object.Spec.RuntimeClassName
	exempt := w.mayUseClass(ctx, pod.Spec.RuntimeClassName)
	found := rules.PodUpdate(pod, was, exempt)
	found.Denials = append(found.Denials, r.reserved(ctx, w, nil, &pod.Spec, exempt)...)
	return found, nil
}

// reserved refuses what only those may ask for who were given it: a RuntimeClass that is no microVM, a priority by which others are
// pushed out, and a place that the scheduler did not choose, or from which it keeps others away.
func (r *ruling) reserved(ctx context.Context, w who, base *field.Path, spec *corev1.PodSpec, exempt bool) field.ErrorList {
	var all field.ErrorList
	deny := func(at *field.Path, text string) { all = append(all, field.Forbidden(at, text)) }
	if class := spec.RuntimeClassName; class != nil && *class != RuntimeClass && !exempt {
		deny(base.Child("spec", "runtimeClassName"), fmt.Sprintf("%q is for those who were given the verb use on it, as the user or the Pod's ServiceAccount; "+
			"leave it out, and the Pod is a microVM (%s)", *class, RuntimeClass))
	}
	if text := r.priority(ctx, w, spec); text != "" {
		deny(base.Child("spec", "priorityClassName"), text)
	}
	abroad := rules.Elsewhere(base, spec, w.namespace)
	if spec.NodeName == "" && len(abroad) == 0 {
		return all
	}
	if w.may(ctx, authorizer.AttributesRecord{Verb: "create", Resource: "pods", Subresource: "binding"}) {
		return all
	}
	if spec.NodeName != "" {
		deny(base.Child("spec", "nodeName"), "the scheduler finds a place for the Pod; remove the field")
	}
	for _, at := range abroad {
		deny(at, "Pods of other namespaces are others'; remove the field, and the Pods of the own namespace are meant")
	}
	return all
}

// priority says why a Pod cannot have its priority, or nothing. The class that the cluster gives to Pods that name none is everybody's.
func (r *ruling) priority(ctx context.Context, w who, spec *corev1.PodSpec) string {
	name := spec.PriorityClassName
	if strings.HasPrefix(name, "system-") {
		if w.namespace == metav1.NamespaceSystem {
			return ""
		}
		return fmt.Sprintf("%q is for Pods of %s, since it pushes others out; leave it out, or name a class of the cluster's (kubectl get priorityclasses)", name, metav1.NamespaceSystem)
	}
	value := int32(0)
	class, err := r.classes.Get(name)
	switch {
	case err == nil && class.GlobalDefault:
		return ""
	case spec.Priority != nil:
		value = *spec.Priority
	case err == nil: // of a template, which has no number yet
		value = class.Value
	}
	if value <= 0 || w.may(ctx, authorizer.AttributesRecord{Verb: "use", APIGroup: schedulingv1.GroupName, Resource: "priorityclasses", Name: name}) {
		return ""
	}
	return fmt.Sprintf("%q has Pods of others pushed out, and is for those who were given the verb use on it, as the user or the Pod's ServiceAccount; "+
		"leave it out, or name one of the value 0 or less (kubectl get priorityclasses)", name)
}

// refuseFileKeys refuses variables that would be read from a container's files, in Pods and in what makes them. It is asked before
// others, since the API drops the field where the feature is off. What is left would be refused without a word that helps.
func refuseFileKeys(a admission.Attributes) error {
	var spec *core.PodSpec
	path := field.NewPath("spec")
	switch object := a.GetObject().(type) {
	case *core.Pod:
		if a.GetOperation() != admission.Create && a.GetSubresource() != "ephemeralcontainers" {
			return nil // it is there already
		}
		spec = &object.Spec
	default:
		template := templateOf(object)
		if template == nil || a.GetSubresource() != "" || unchanged(a) {
			return nil
		}
		spec, path = &template.Spec, templatePath(a.GetKind().Kind).Child("spec")
	}
	var all field.ErrorList
	pods.VisitContainersWithPath(spec, path, func(c *core.Container, at *field.Path) bool {
		for i := range c.Env {
			if c.Env[i].ValueFrom != nil && c.Env[i].ValueFrom.FileKeyRef != nil {
				all = append(all, field.Forbidden(at.Child("env").Index(i).Child("valueFrom", "fileKeyRef"), rules.NoFileKeyRef))
			}
		}
		return true
	})
	if len(all) == 0 {
		return nil
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), all)
}
