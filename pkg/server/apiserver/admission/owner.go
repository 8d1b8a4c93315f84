package admission

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/apis/core"
)

// mostOwners is how far up a Pod's owners are followed. Kubernetes' own chains have two.
const mostOwners = 5

// owners finds what made what.
type owners struct {
	client  kubernetes.Interface
	foreign *foreign // nil when it is not to be asked
}

// workload names what made a Pod, as people call it: the topmost of its controllers, so a Deployment rather than its ReplicaSet and a
// CronJob rather than its Job, of which it makes another at each run. Kinds that are not Kubernetes' own are asked as well; what cannot be
// read is the topmost. A Pod that nobody made is named itself.
func (o owners) workload(ctx context.Context, namespace string, pod *core.Pod) string {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		if pod.Name != "" {
			return "Pod/" + pod.Name
		}
		return "Pod/" + strings.TrimSuffix(pod.GenerateName, "-")
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range mostOwners {
		above := o.above(ctx, short, namespace, owner)
		if above == nil {
			break
		}
		owner = above
	}
	// A ReplicaSet that cannot be asked tells by its name that a Deployment made it.
	hash := pod.Labels["pod-template-hash"]
	if name, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && owner.Kind == "ReplicaSet" {
		return "Deployment/" + name
	}
	return owner.Kind + "/" + owner.Name
}

// above is the controller of an object that is itself a controller; nil if there is none, or nobody knows. The short context is for kinds
// for which others than this apiserver may answer.
func (o owners) above(ctx, short context.Context, namespace string, of *metav1.OwnerReference) *metav1.OwnerReference {
	get := o.getter(namespace, schema.FromAPIVersionAndKind(of.APIVersion, of.Kind))
	if get == nil {
		return o.foreign.above(short, namespace, of)
	}
	object := find(ctx, of, get, "0")
	if object == nil { // what is remembered of it may be older than the object
		object = find(ctx, of, get, "")
	}
	if object == nil {
		return nil
	}
	return metav1.GetControllerOfNoCopy(object)
}

// find gets the object that a reference means, and no other of the same name, as it was at a version or later.
func find(ctx context.Context, of *metav1.OwnerReference, get getter, version string) metav1.Object {
	object, err := get(ctx, of.Name, metav1.GetOptions{ResourceVersion: version})
	if err != nil || object.GetUID() != of.UID {
		return nil
	}
	return object
}

// getter reads an object of one kind by its name.
type getter func(ctx context.Context, name string, options metav1.GetOptions) (metav1.Object, error)

// getter is how an object of one of Kubernetes' kinds is read that make Pods or what does; nil for other kinds.
func (o owners) getter(namespace string, kind schema.GroupVersionKind) getter {
	if o.client == nil {
		return nil
	}
	switch kind {
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet"):
		return reads(o.client.AppsV1().ReplicaSets(namespace).Get)
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet"):
		return reads(o.client.AppsV1().StatefulSets(namespace).Get)
	case appsv1.SchemeGroupVersion.WithKind("DaemonSet"):
		return reads(o.client.AppsV1().DaemonSets(namespace).Get)
	case appsv1.SchemeGroupVersion.WithKind("Deployment"):
		return reads(o.client.AppsV1().Deployments(namespace).Get)
	case batchv1.SchemeGroupVersion.WithKind("Job"):
		return reads(o.client.BatchV1().Jobs(namespace).Get)
	case batchv1.SchemeGroupVersion.WithKind("CronJob"):
		return reads(o.client.BatchV1().CronJobs(namespace).Get)
	case corev1.SchemeGroupVersion.WithKind("ReplicationController"):
		return reads(o.client.CoreV1().ReplicationControllers(namespace).Get)
	}
	return nil
}

// reads is a client's method for one kind, as one for any.
func reads[T metav1.Object](get func(context.Context, string, metav1.GetOptions) (T, error)) getter {
	return func(ctx context.Context, name string, options metav1.GetOptions) (metav1.Object, error) {
		return get(ctx, name, options)
	}
}
