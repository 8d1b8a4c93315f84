package metrics

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// amount is a share of a machine. A zero says that nobody has said anything.
type amount struct {
	cpu    int64 // thousandths of a core
	memory int64 // bytes
}

// pod is what is kept of a running Pod: its name, its labels, and what its use is compared with.
type pod struct {
	metav1.PartialObjectMetadata
	spec             amount // what its microVM is made to
	requests, limits amount // of its containers together
}

var _ runtime.Object = (*pod)(nil)

// DeepCopyObject makes a pod an object of the cache.
func (p *pod) DeepCopyObject() runtime.Object {
	out := *p
	p.PartialObjectMetadata.DeepCopyInto(&out.PartialObjectMetadata)
	return &out
}

// keep is the transform of the cache: it throws away what nobody here asks for, which is nearly all of a Pod.
func keep(object any) (any, error) {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil // kept before, or a tombstone of it
	}
	kept := &pod{PartialObjectMetadata: metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels,
	}}}
	if text := p.Annotations[api.Spec]; text != "" {
		if size, err := podsize.ParseSize(text, p.Annotations[api.SpecType]); err == nil {
			kept.spec = amount{cpu: size.CPU, memory: size.Memory}
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			kept.add(c) // a sidecar runs, and is measured, as long as the others
		}
	}
	for i := range p.Spec.Containers {
		kept.add(&p.Spec.Containers[i])
	}
	return kept, nil
}

func (p *pod) add(c *corev1.Container) {
	p.requests.cpu += c.Resources.Requests.Cpu().MilliValue()
	p.requests.memory += c.Resources.Requests.Memory().Value()
	p.limits.cpu += c.Resources.Limits.Cpu().MilliValue()
	p.limits.memory += c.Resources.Limits.Memory().Value()
}

// podCache holds the running Pods.
type podCache struct{ cache.Indexer }

// get finds a Pod; the error is of the API's kind NotFound.
func (c podCache) get(namespace, name string) (*pod, error) {
	object, ok, err := c.GetByKey(namespace + "/" + name)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	p, ok := object.(*pod)
	if !ok {
		return nil, apierrors.NewInternalError(errKind(object))
	}
	return p, nil
}

// list finds the Pods of a namespace, or of all when it is empty.
func (c podCache) list(namespace string, selector labels.Selector) ([]*pod, error) {
	var found []*pod
	var wrong error
	err := cache.ListAllByNamespace(c.Indexer, namespace, selector, func(object any) {
		if p, ok := object.(*pod); ok {
			found = append(found, p)
		} else {
			wrong = errKind(object)
		}
	})
	if err == nil {
		err = wrong
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return found, nil
}
