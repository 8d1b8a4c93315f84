package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/nodeless/nodeless/pkg/kube"
)

// The waits between two attempts at one object. Somebody who keeps changing it is not answered more often than every longest.
const (
	shortestWait = 100 * time.Millisecond
	longestWait  = 20 * time.Second
)

// place is where an object is in the API.
type place struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

func placeOf(obj *unstructured.Unstructured) place {
	resource, _ := meta.UnsafeGuessKindToResource(obj.GroupVersionKind())
	return place{resource, obj.GetNamespace(), obj.GetName()}
}

// keeper puts objects back that somebody has removed or changed. It watches the names of all objects of the kinds it keeps, and has no
// more of them in memory.
type keeper struct {
	client  dynamic.Interface
	log     *slog.Logger
	objects map[place]*unstructured.Unstructured
	changed workqueue.TypedRateLimitingInterface[place]
}

func newKeeper(client dynamic.Interface, objects []*unstructured.Unstructured, log *slog.Logger) *keeper {
	k := &keeper{client: client, log: log, objects: map[place]*unstructured.Unstructured{}}
	for _, obj := range objects {
		k.objects[placeOf(obj)] = obj
	}
	k.changed = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[place](shortestWait, longestWait))
	return k
}

// run keeps the objects until ctx ends.
func (k *keeper) run(ctx context.Context, watcher metadata.Interface) error {
	type kind struct {
		resource  schema.GroupVersionResource
		namespace string
	}
	kinds := map[kind]bool{}
	for at := range k.objects {
		kinds[kind{at.resource, at.namespace}] = true
	}
	for of := range maps.Keys(kinds) {
		informer := metadatainformer.NewFilteredMetadataInformer(watcher, of.resource, of.namespace, 0, cache.Indexers{}, nil).Informer()
		if err := informer.SetTransform(bare); err != nil {
			return fmt.Errorf("watch %s: %w", of.resource.Resource, err)
		}
		if _, err := informer.AddEventHandler(k.handler(of.resource)); err != nil {
			return fmt.Errorf("watch %s: %w", of.resource.Resource, err)
		}
		go informer.Run(ctx.Done())
		go k.missing(ctx, of.resource, of.namespace, informer)
	}
	go func() {
		<-ctx.Done()
		k.changed.ShutDown()
	}()
	for {
		at, down := k.changed.Get()
		if down {
			return nil
		}
		err := k.restore(ctx, at)
		k.changed.Done(at)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("built-in object not restored", "kind", at.resource.Resource, "name", at.name, "error", err)
			k.changed.AddRateLimited(at)
		}
	}
}

// bare leaves of an object what names and versions it.
func bare(object any) (any, error) {
	have, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: have.Name, Namespace: have.Namespace, UID: have.UID, ResourceVersion: have.ResourceVersion,
	}}, nil
}

// handler notes what became of objects that are kept. What is there at the start has just been applied.
func (k *keeper) handler(resource schema.GroupVersionResource) cache.ResourceEventHandler {
	note := func(object any) {
		if tomb, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tomb.Obj
		}
		if have, ok := object.(metav1.Object); ok {
			k.note(place{resource, have.GetNamespace(), have.GetName()})
		}
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initial bool) {
			if !initial {
				note(object)
			}
		},
		UpdateFunc: func(_, object any) { note(object) },
		DeleteFunc: note,
	}
}

func (k *keeper) note(at place) {
	if _, kept := k.objects[at]; kept {
		k.changed.AddRateLimited(at)
	}
}

// missing notes what went between being applied and being watched.
func (k *keeper) missing(ctx context.Context, resource schema.GroupVersionResource, namespace string, informer cache.SharedIndexInformer) {
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return
	}
	for at := range k.objects {
		if at.resource != resource || at.namespace != namespace {
			continue
		}
		key := at.name
		if namespace != "" {
			key = namespace + "/" + at.name
		}
		if _, ok, err := informer.GetStore().GetByKey(key); err == nil && !ok {
			k.note(at)
		}
	}
}

// restore makes an object what it should be. Nothing is written, and nothing said, if it is that.
func (k *keeper) restore(ctx context.Context, at place) error {
	want := k.objects[at]
	target := k.target(at)
	before, err := target.Get(ctx, at.name, metav1.GetOptions{})
	if kube.IgnoreNotFound(err) != nil {
		return err
	}
	if before != nil && before.GetDeletionTimestamp() != nil {
		return errors.New("it is being deleted")
	}
	if before != nil {
		err = k.purge(ctx, at, before)
	}
	if err == nil || apierrors.IsNotFound(err) {
		err = kube.Apply(ctx, k.client, []*unstructured.Unstructured{want})
	}
	if apierrors.IsInvalid(err) && before != nil { // what cannot be changed was changed, by making it anew
		err = target.Delete(ctx, at.name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(before.GetUID()))})
		if err == nil {
			err = kube.Apply(ctx, k.client, []*unstructured.Unstructured{want})
		}
	}
	if err != nil {
		return err
	}
	after, err := target.Get(ctx, at.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if before == nil || before.GetResourceVersion() != after.GetResourceVersion() {
		k.log.Warn("built-in object restored", "kind", want.GetKind(), "name", at.name, "namespace", at.namespace)
		return nil
	}
	k.changed.Forget(at)
	return nil
}

// purge takes out of an object what would lead what asks for it elsewhere: applying leaves what it does not mention. An API of ours that
// has a Service is asked for there, and a Service of ours that has a selector gets other endpoints. A PriorityClass of ours that is the
// default would be that of every Pod.
func (k *keeper) purge(ctx context.Context, at place, have *unstructured.Unstructured) error {
	want := k.objects[at]
	mended := have.DeepCopy()
	switch want.GetKind() {
	case "APIService":
		mended.Object["spec"] = want.DeepCopy().Object["spec"]
	case "Service":
		for _, field := range []string{"selector", "externalName"} {
			unstructured.RemoveNestedField(mended.Object, "spec", field)
		}
	case "PriorityClass":
		unstructured.RemoveNestedField(mended.Object, "globalDefault")
	}
	if apiequality.Semantic.DeepEqual(have.Object, mended.Object) {
		return nil
	}
	_, err := k.target(at).Update(ctx, mended, metav1.UpdateOptions{FieldManager: kube.FieldManager})
	if apierrors.IsInvalid(err) {
		return nil // applying meets the same and makes it anew
	}
	return err
}

func (k *keeper) target(at place) dynamic.ResourceInterface {
	if at.namespace == "" {
		return k.client.Resource(at.resource)
	}
	return k.client.Resource(at.resource).Namespace(at.namespace)
}
