package admission

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/networking"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
)

// RulesName is how --disable-admission-plugins knows the plugin that holds objects against the rules of pkg/admission/rules.
const RulesName = "ServerlessRules"

// ruling gives Pods the annotations and companions that the operator has for all of them, refuses what cannot be had without nodes,
// with every reason at once, and warns of what has no effect.
type ruling struct {
	*waiting
	settings rules.Settings
	size     *size // for what a workload's Pods will be

	authorizer authorizer.Authorizer
	client     kubernetes.Interface
	stop       <-chan struct{}
	globals    corelisters.ConfigMapLister
	nodes      corelisters.NodeLister
	pods       corelisters.PodLister
	services   corelisters.ServiceLister
	sets       appslisters.DaemonSetLister // nil unless DaemonSets are added to Pods
	classes    schedulinglisters.PriorityClassLister
	ingresses  networkinglisters.IngressClassLister
}

var (
	_ admission.MutationInterface                  = (*ruling)(nil)
	_ admission.ValidationInterface                = (*ruling)(nil)
	_ admission.InitializationValidator            = (*ruling)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*ruling)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*ruling)(nil)
	_ initializer.WantsDrainedNotification         = (*ruling)(nil)
	_ initializer.WantsAuthorizer                  = (*ruling)(nil)
)

// SetExternalKubeClientSet gives the plugin a client, to follow the ConfigMap with annotations for all Pods.
func (r *ruling) SetExternalKubeClientSet(client kubernetes.Interface) { r.client = client }

// SetAuthorizer gives the plugin the word on who may what.
func (r *ruling) SetAuthorizer(a authorizer.Authorizer) { r.authorizer = a }

// SetDrainedNotification tells the plugin when to stop.
func (r *ruling) SetDrainedNotification(stop <-chan struct{}) { r.stop = stop }

// SetExternalKubeInformerFactory gives the plugin the cluster's Nodes and DaemonSets.
func (r *ruling) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	r.nodes = f.Core().V1().Nodes().Lister()
	r.size.nodes = r.nodes
	r.classes = f.Scheduling().V1().PriorityClasses().Lister()
	r.ingresses = f.Networking().V1().IngressClasses().Lister()
	r.pods = f.Core().V1().Pods().Lister()
	r.services = f.Core().V1().Services().Lister()
	r.follow(f.Core().V1().Nodes().Informer().HasSynced, f.Scheduling().V1().PriorityClasses().Informer().HasSynced, f.Core().V1().Pods().Informer().HasSynced,
		f.Core().V1().Services().Informer().HasSynced, f.Networking().V1().IngressClasses().Informer().HasSynced)
	if r.settings.DaemonSets == rules.PolicyInject {
		r.sets = f.Apps().V1().DaemonSets().Lister()
		r.follow(f.Apps().V1().DaemonSets().Informer().HasSynced)
	}
}

// ValidateInitialization starts following the one ConfigMap, of which the shared informers would keep all.
func (r *ruling) ValidateInitialization() error {
	if r.nodes == nil || r.pods == nil || r.services == nil || r.classes == nil || r.ingresses == nil || r.client == nil || r.stop == nil || r.authorizer == nil {
		return fmt.Errorf("admission plugin %s: no access to the cluster", RulesName)
	}
	only := informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + rules.GlobalName })
	factory := informers.NewSharedInformerFactoryWithOptions(r.client, 0, informers.WithNamespace(rules.GlobalNamespace), only)
	r.globals = factory.Core().V1().ConfigMaps().Lister()
	r.follow(factory.Core().V1().ConfigMaps().Informer().HasSynced)
	factory.Start(r.stop)
	return nil
}

// Admit is called for each new or changed object.
func (r *ruling) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if err := refuseFileKeys(a); err != nil || a.GetSubresource() != "" {
		return err
	}
	switch object := a.GetObject().(type) {
	case *core.Pod:
		if a.GetOperation() != admission.Create || mirror(a, object) {
			return nil
		}
		if err := r.await(a); err != nil {
			return err
		}
		if err := r.annotate(object); err != nil {
			return err
		}
		return r.inject(object)
	case *apps.DaemonSet:
		r.park(&object.Spec.Template.Spec)
	}
	return nil
}

// annotate gives a Pod what the Nodes and the cluster's ConfigMap say for all Pods, in this order, unless it says so itself.
func (r *ruling) annotate(pod *core.Pod) error {
	var global map[string]string
	cm, err := r.globals.ConfigMaps(rules.GlobalNamespace).Get(rules.GlobalName)
	if err == nil {
		global, err = rules.ParseGlobal(cm) // what is wrong was refused when it was written
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read annotations for all Pods: %w", err)
	}
	merged, _ := rules.Merge(pod.Annotations, r.common(), global)
	pod.Annotations = merged
	return nil
}

// common are the annotations that all Nodes have: it is not known yet on which a Pod will run.
func (r *ruling) common() map[string]string {
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil || len(nodes) == 0 {
		return nil
	}
	all := map[string]string{}
	for key, value := range nodes[0].Annotations {
		all[key] = value
	}
	for _, node := range nodes[1:] {
		for key, value := range all {
			if node.Annotations[key] != value {
				delete(all, key)
			}
		}
	}
	return all
}

// inject adds the containers of DaemonSets to a Pod.
func (r *ruling) inject(pod *core.Pod) error {
	if r.sets == nil {
		return nil
	}
	list, err := r.sets.List(labels.Everything())
	if err != nil || len(list) == 0 {
		return err
	}
	var sets []appsv1.DaemonSet
	for _, ds := range list {
		sets = append(sets, *ds.DeepCopy())
	}
	var external corev1.Pod
	if err := legacyscheme.Scheme.Convert(pod, &external, nil); err != nil {
		return fmt.Errorf("convert Pod: %w", err)
	}
	if len(rules.Inject(&external, sets, r.settings)) == 0 {
		return nil
	}
	var with core.Pod
	if err := legacyscheme.Scheme.Convert(&external, &with, nil); err != nil {
		return fmt.Errorf("convert Pod: %w", err)
	}
	*pod = with
	return nil
}

// Labels that no Node has.
const (
	addedTo = api.Own + "added-to"   // of a DaemonSet whose containers are added to Pods
	parked  = api.Own + "daemonsets" // of one that is kept without Pods
)

// park keeps the DaemonSet controller from making Pods, or lets it again after the policy was changed.
func (r *ruling) park(spec *core.PodSpec) {
	delete(spec.NodeSelector, addedTo)
	delete(spec.NodeSelector, parked)
	if !r.settings.DaemonSets.Parked() {
		return
	}
	if spec.NodeSelector == nil {
		spec.NodeSelector = map[string]string{}
	}
	if r.settings.DaemonSets == rules.PolicyInject {
		spec.NodeSelector[addedTo] = "pods"
		return
	}
	spec.NodeSelector[parked] = string(rules.PolicyPark)
}

// Validate is called for each new or changed object once it is as it will be, and when somebody gets into a Pod.
func (r *ruling) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Connect {
		return r.connect(ctx, a)
	}
	if a.GetSubresource() == "scale" {
		if a = r.scaled(ctx, a); a == nil {
			return nil
		}
	}
	if a.GetSubresource() != "" && a.GetResource().GroupResource() != core.Resource("pods") {
		return nil // none of another kind's makes or changes a Pod
	}
	found, err := r.find(ctx, a)
	if err != nil {
		return err
	}
	tell(ctx, a, found.Warnings...)
	if len(found.Denials) > 0 {
		return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), found.Denials)
	}
	return nil
}

// ports is how many the Services of a namespace have but for one of them. What is made in the same moment is not known yet.
func (r *ruling) ports(a admission.Attributes, but string) (n int, err error) {
	if err := r.await(a); err != nil {
		return 0, err
	}
	all, err := r.services.Services(a.GetNamespace()).List(labels.Everything())
	for _, s := range all {
		if s.Name != but {
			n += len(s.Spec.Ports)
		}
	}
	return n, err
}

func (r *ruling) find(ctx context.Context, a admission.Attributes) (rules.Findings, error) {
	switch object := a.GetObject().(type) {
	case *core.Pod:
		if mirror(a, object) {
			return rules.Findings{}, nil
		}
		return r.pod(ctx, a, object)
	case *core.Service:
		var service corev1.Service
		if err := legacyscheme.Scheme.Convert(object, &service, nil); err != nil {
			return rules.Findings{}, fmt.Errorf("convert Service: %w", err)
		}
		was := &corev1.Service{}
		if old, ok := a.GetOldObject().(*core.Service); ok {
			if err := legacyscheme.Scheme.Convert(old, was, nil); err != nil {
				return rules.Findings{}, fmt.Errorf("convert Service: %w", err)
			}
		}
		others, err := r.ports(a, service.Name)
		return rules.Service(&service, was, others), err
	case *autoscaling.HorizontalPodAutoscaler:
		return rules.Autoscaler(len(object.Spec.Metrics)), nil
	case *networking.NetworkPolicy:
		return rules.NetworkPolicy(), nil
	case *networking.Ingress:
		return r.ingress(a, object)
	case *core.ConfigMap:
		if object.Namespace != rules.GlobalNamespace || object.Name != rules.GlobalName {
			return rules.Findings{}, nil
		}
		return rules.GlobalConfig(&corev1.ConfigMap{ObjectMeta: object.ObjectMeta, Data: object.Data, BinaryData: object.BinaryData}), nil
	}
	return r.workload(ctx, a)
}

// ingress reports on one whose class nobody has made. The class may be named by the annotation that was used before the field.
func (r *ruling) ingress(a admission.Attributes, object *networking.Ingress) (rules.Findings, error) {
	if err := r.await(a); err != nil {
		return rules.Findings{}, err
	}
	class := object.Annotations["kubernetes.io/ingress.class"]
	if object.Spec.IngressClassName != nil {
		class = *object.Spec.IngressClassName
	}
	_, err := r.ingresses.Get(class)
	return rules.Ingress(class, err == nil), nil
}

// workload reports on an object that makes Pods when these are new, or when there will be more than one.
func (r *ruling) workload(ctx context.Context, a admission.Attributes) (rules.Findings, error) {
	template := templateOf(a.GetObject())
	if template == nil || unchanged(a) && !grown(a) {
		return rules.Findings{}, nil
	}
	if err := r.await(a); err != nil {
		return rules.Findings{}, err
	}
	meta, ok := a.GetObject().(metav1.Object)
	if !ok {
		return rules.Findings{}, fmt.Errorf("admit %s: object is a %T", a.GetKind().Kind, a.GetObject())
	}
	var external corev1.PodTemplateSpec
	if err := legacyscheme.Scheme.Convert(template, &external, nil); err != nil {
		return rules.Findings{}, fmt.Errorf("convert template of Pods: %w", err)
	}
	// Its Pods are made by a controller, for which the ServiceAccount counts.
	w := who{r.authorizer, a.GetNamespace(), nil, template.Spec.ServiceAccountName}
	exempt := w.mayUseClass(ctx, external.Spec.RuntimeClassName)
	at := templatePath(a.GetKind().Kind)
	if unchanged(a) {
		return rules.Findings{Warnings: r.shared(a, at, &external.Spec, exempt)}, nil
	}
	found := rules.Workload(a.GetKind().Kind, meta, &external, r.settings, exempt)
	ds, daemon := a.GetObject().(*apps.DaemonSet)
	if !daemon || !r.settings.DaemonSets.Parked() { // else there are no Pods to tell of
		refused := rules.Refusals(&external.Spec, r.reserved(ctx, w, at, &external.Spec, exempt))
		found.Warnings = slices.Concat(refused, found.Warnings, r.size.foresee(at, template), r.shared(a, at, &external.Spec, exempt))
	}
	if daemon {
		var set appsv1.DaemonSet
		if err := legacyscheme.Scheme.Convert(ds, &set, nil); err != nil {
			return rules.Findings{}, fmt.Errorf("convert DaemonSet: %w", err)
		}
		own := rules.DaemonSet(&set, r.settings.DaemonSets)
		found.Denials, found.Warnings = append(found.Denials, own.Denials...), append(own.Warnings, found.Warnings...)
	}
	return found, nil
}
