package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// SizeName is how --disable-admission-plugins knows the plugin that sizes Pods.
const SizeName = "PodSize"

// size gives each Pod a spec of the catalog. The Pod has it as its own resources (spec.resources): the scheduler and quotas count it by
// them, and its microVM is made to them (docs/adr/0025). It has it as annotations too, by which people see it and the meter bills it.
type size struct {
	*waiting
	catalog podsize.Catalog
	native  bool     // a Pod's own figures stay as they are; its spec is what it is billed by
	grace   int64    // seconds that a spot Pod has to end in, at most
	cost    Cost     // nil when prices are nobody's concern
	tellers []string // the users who bring annotations up to date after a resize, and give notice
	nodes   corelisters.NodeLister
	owners  owners
}

var (
	_ admission.MutationInterface                  = (*size)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*size)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*size)(nil)
	_ initializer.WantsRESTMapper                  = (*size)(nil)
)

// SetExternalKubeClientSet gives the plugin a client, to ask for what made a Pod.
func (s *size) SetExternalKubeClientSet(client kubernetes.Interface) {
	s.owners.client = client
	if s.owners.foreign != nil {
		s.owners.foreign.get = metadataBy(client.CoreV1().RESTClient())
	}
}

// SetRESTMapper gives the plugin the cluster's kinds, to ask for what made a Pod and is of a kind that is not Kubernetes' own.
func (s *size) SetRESTMapper(mapper meta.RESTMapper) {
	if s.owners.foreign != nil {
		s.owners.foreign.mapper = mapper
	}
}

// SetExternalKubeInformerFactory gives the plugin the cluster's Nodes, by which it knows what types of CPU there are.
func (s *size) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	nodes := f.Core().V1().Nodes()
	s.nodes = nodes.Lister()
	s.follow(nodes.Informer().HasSynced)
}

// ValidateInitialization fails before the first request when the plugin was not given what it needs.
func (s *size) ValidateInitialization() error {
	if s.nodes == nil || s.owners.client == nil {
		return fmt.Errorf("admission plugin %s: no Nodes, or no client", SizeName)
	}
	return nil
}

// Admit is called for each new Pod, for each change of one, and when one is resized.
func (s *size) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, old, err := podOf(a)
	if err != nil || pod == nil || mirror(a, pod) {
		return err
	}
	switch {
	case a.GetOperation() == admission.Create && a.GetSubresource() == "":
		if again := a.GetReinvocationContext(); again != nil && again.IsReinvoke() && pod.Annotations[api.AskedWhole] == "" && !s.native {
			pod.Spec.Resources = nil // that was us, before a webhook changed the Pod
		}
		if err := s.await(a); err != nil {
			return err
		}
		return s.create(ctx, a, pod)
	case old == nil:
		return nil
	case a.GetSubresource() == "resize":
		return s.resize(ctx, a, pod, old)
	}
	if !slices.Contains(s.tellers, a.GetUserInfo().GetName()) {
		keep(pod, old)
	}
	return nil
}

// podOf is the Pod of a request, and what it was before; none for other objects and for Pods that run in no microVM.
func podOf(a admission.Attributes) (pod, old *core.Pod, err error) {
	if a.GetResource().GroupResource() != core.Resource("pods") {
		return nil, nil, nil
	}
	switch a.GetSubresource() {
	case "", "resize", "status", "ephemeralcontainers":
	default:
		return nil, nil, nil // objects of other kinds
	}
	pod, ok := a.GetObject().(*core.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("admit Pod: object is a %T", a.GetObject())
	}
	old, _ = a.GetOldObject().(*core.Pod)
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != RuntimeClass {
		return nil, nil, nil
	}
	return pod, old, nil
}

// mirror tells that a Pod is the image of one that a kubelet has from a file: it runs already. Nobody but a kubelet is believed.
func mirror(a admission.Attributes, pod *core.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok && slices.Contains(a.GetUserInfo().GetGroups(), user.NodesGroup)
}

// owned are the annotations that nobody but this plugin sets.
var owned = []string{api.Spec, api.SpecType, api.ChargeType, api.Workload, api.RootDisk, api.DiskShares, api.AskedWhole, api.Sizing, api.InterruptionAt}

// keep undoes changes of what is ours. It is not an error: clients replace Pods by manifests that know nothing of it.
func keep(pod, old *core.Pod) {
	for _, key := range owned {
		value, had := old.Annotations[key]
		if _, has := pod.Annotations[key]; !had {
			if has {
				delete(pod.Annotations, key)
			}
			continue
		}
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[key] = value
	}
}

func (s *size) create(ctx context.Context, a admission.Attributes, pod *core.Pod) error {
	forget(pod)
	for _, key := range owned {
		delete(pod.Annotations, key)
	}
	wish, err := podsize.ParseWish(pod.Annotations)
	if err != nil {
		return refuse(pod, err)
	}
	wish = wish.Narrow(s.there)
	asking := resourcesOfPod(pod)
	asked := podsize.DemandOf(asking, s.catalog.Rules)
	got, err := s.catalog.Fit(wish.On(asked))
	if err != nil {
		return refuse(pod, err)
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if whole(pod.Spec.Resources) {
		pod.Annotations[api.AskedWhole] = "true"
	}
	describe(pod, got, s.owners.workload(ctx, a.GetNamespace(), pod))
	if wish.RootDisk > podsize.FreeRootDisk {
		pod.Annotations[api.RootDisk] = strconv.FormatInt(wish.RootDisk, 10)
	}
	said := s.settle(pod, wish, got)
	askForGPUs(pod, wish.On(asked).GPU)
	if len(wish.CPUTypes()) > 0 && got.GPU == 0 {
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[api.CPUTypeLabel] = got.Type
	}
	said = append(said, s.difference("the Pod", asking, wish, got)...)
	if pod.Annotations[api.ChargeType] == api.ChargeSpot {
		said = append(said, hurry(&pod.Spec, s.grace)...)
	}
	tell(ctx, a, said...)
	return nil
}

// settle makes the spec the Pod's own resources, or says what its microVM follows in its place.
func (s *size) settle(pod *core.Pod, wish podsize.Wish, got podsize.Size) []string {
	if s.native {
		pod.Annotations[api.Sizing] = follows(&pod.Spec)
		return nil
	}
	give(pod, got)
	return fitInto(pod, wish, got)
}

// resize gives the Pod the spec that its containers want now. A Pod whose spec was named by annotations keeps that.
func (s *size) resize(ctx context.Context, a admission.Attributes, pod, old *core.Pod) error {
	if old.Annotations[api.Spec] == "" {
		return nil
	}
	wish, err := podsize.ParseWish(old.Annotations)
	if err != nil {
		return refuse(pod, err)
	}
	now := pod.DeepCopy()
	native := old.Annotations[api.Sizing] != ""
	if !native && same(pod.Spec.Resources, old.Spec.Resources) && !s.asksWhole(old, wish) {
		now.Spec.Resources = nil // what we gave it is not what it asks for
	}
	got, err := s.fitAgain(now, old, wish)
	if err != nil {
		return refuse(pod, err)
	}
	if !native {
		give(pod, got)
	}
	if was := old.Annotations[api.Spec]; was != got.String() {
		tell(ctx, a, fmt.Sprintf("the Pod goes from %s to %s (%s)", was, got, got.Type))
	}
	return nil
}

// fitAgain is the spec for what a Pod asks for now, of the type that it has had.
func (s *size) fitAgain(pod, old *core.Pod, wish podsize.Wish) (podsize.Size, error) {
	demand := wish.On(podsize.DemandOf(resourcesOfPod(pod), s.catalog.Rules))
	if len(demand.Types) == 0 {
		demand.Types = []string{old.Annotations[api.SpecType]}
	}
	return s.catalog.Fit(demand)
}

// asksWhole tells that somebody asked for the Pod's own resources, at its creation or by a resize: they are not what its containers
// would have got it.
func (s *size) asksWhole(pod *core.Pod, wish podsize.Wish) bool {
	if pod.Annotations[api.AskedWhole] != "" {
		return true
	}
	bare := pod.DeepCopy()
	bare.Spec.Resources = nil
	got, err := s.fitAgain(bare, pod, wish)
	if err != nil {
		return true
	}
	give(bare, got)
	return !same(bare.Spec.Resources, pod.Spec.Resources)
}

// there tells whether some host has CPUs of a type.
func (s *size) there(kind string) bool {
	nodes, err := s.nodes.List(labels.SelectorFromSet(labels.Set{api.CPUTypeLabel: kind}))
	return err == nil && len(nodes) > 0 // a lister fails for no reason that there is
}

// faults is everything that is wrong with the size of a Pod, or of a template that stands at base.
func faults(base *field.Path, err error) (all field.ErrorList) {
	for _, one := range flatten(err) {
		var fault *podsize.AnnotationError
		if errors.As(one, &fault) {
			all = append(all, field.Invalid(base.Child("metadata", "annotations").Key(fault.Key), fault.Value, fault.Err.Error()))
			continue
		}
		all = append(all, field.Forbidden(base.Child("spec", "containers"), one.Error()))
	}
	return all
}

// refuse names everything that is wrong with a Pod's size.
func refuse(pod *core.Pod, err error) error {
	name := pod.Name
	if name == "" {
		name = pod.GenerateName
	}
	return apierrors.NewInvalid(core.Kind("Pod"), name, faults(nil, err))
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // what errors.Join makes has no other sign
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, flatten(one)...)
		}
		return all
	}
	return []error{err}
}
