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
type owners struct{ client kubernetes.Interface }

// workload names what made a Pod, as people call it: the topmost of its controllers, so a Deployment rather than its ReplicaSet and a
// CronJob rather than its Job, of which it makes another at each run. Controllers of kinds that are not Kubernetes' own are named and not
// asked for theirs. A Pod that nobody made is named itself.
func (o owners) workload(ctx context.Context, namespace string, pod *core.Pod) string {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		if pod.Name != "" {
			return "Pod/" + pod.Name
		}
		return "Pod/" + strings.TrimSuffix(pod.GenerateName, "-")
	}
	for range mostOwners {
		above := o.above(ctx, namespace, owner)
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

// above is the controller of an object that is itself a controller; nil if there is none, or nobody knows.
func (o owners) above(ctx context.Context, namespace string, of *metav1.OwnerReference) *metav1.OwnerReference {
	object := o.find(ctx, namespace, of, "0")
	if object == nil { // what is remembered of it may be older than the object
		object = o.find(ctx, namespace, of, "")
	}
	if object == nil {
		return nil
	}
	return metav1.GetControllerOfNoCopy(object)
}

// find gets the object that a reference means, and no other of the same name, as it was at a version or later.
func (o owners) find(ctx context.Context, namespace string, of *metav1.OwnerReference, version string) metav1.Object {
	if o.client == nil {
		return nil
	}
	options := metav1.GetOptions{ResourceVersion: version}
	var object metav1.Object
	var err error
	switch schema.FromAPIVersionAndKind(of.APIVersion, of.Kind) {
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet"):
		object, err = o.client.AppsV1().ReplicaSets(namespace).Get(ctx, of.Name, options)
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet"):
		object, err = o.client.AppsV1().StatefulSets(namespace).Get(ctx, of.Name, options)
	case appsv1.SchemeGroupVersion.WithKind("DaemonSet"):
		object, err = o.client.AppsV1().DaemonSets(namespace).Get(ctx, of.Name, options)
	case appsv1.SchemeGroupVersion.WithKind("Deployment"):
		object, err = o.client.AppsV1().Deployments(namespace).Get(ctx, of.Name, options)
	case batchv1.SchemeGroupVersion.WithKind("Job"):
		object, err = o.client.BatchV1().Jobs(namespace).Get(ctx, of.Name, options)
	case batchv1.SchemeGroupVersion.WithKind("CronJob"):
		object, err = o.client.BatchV1().CronJobs(namespace).Get(ctx, of.Name, options)
	case corev1.SchemeGroupVersion.WithKind("ReplicationController"):
		object, err = o.client.CoreV1().ReplicationControllers(namespace).Get(ctx, of.Name, options)
	default:
		return nil
	}
	if err != nil || object.GetUID() != of.UID {
		return nil
	}
	return object
}
