package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
)

// Bounds on what is asked of kinds that are not Kubernetes' own. Tenants write the references, and anybody may answer for such a kind.
const (
	patience       = 2 * time.Second  // for all owners of a Pod together
	remembered     = 10 * time.Second // for an answer: the Pods of one workload come one after the other
	mostRemembered = 4096
	mostSought     = 16  // kinds that are looked up at once
	longestName    = 253 // bytes of a version, a kind or a name
)

// foreign knows the controllers of objects of kinds that are not Kubernetes' own, such as a Workflow of Argo or a TaskRun of Tekton. It
// reads their metadata only, of the version that the reference names, in the Pod's namespace or of a cluster-wide kind.
type foreign struct {
	mapper meta.RESTMapper // nil, or get, when nobody can be asked
	get    func(ctx context.Context, of *meta.RESTMapping, namespace, name string) (*metav1.PartialObjectMetadata, error)

	seeking chan struct{} // has one for each kind that is being looked up
	known   *cache.LRUExpireCache
}

func newForeign() *foreign {
	return &foreign{seeking: make(chan struct{}, mostSought), known: cache.NewLRUExpireCache(mostRemembered)}
}

// reference is what is asked for. What another object of the same name answers is nothing about this one.
type reference struct {
	namespace, version, kind, name string
	uid                            types.UID
}

// above is the controller of an object; nil if there is none, or nobody knows in time.
func (f *foreign) above(ctx context.Context, namespace string, of *metav1.OwnerReference) *metav1.OwnerReference {
	if f == nil || f.mapper == nil || f.get == nil || !short(of) || len(path.IsValidPathSegmentName(of.Name)) > 0 {
		return nil
	}
	key := reference{namespace, of.APIVersion, of.Kind, of.Name, of.UID}
	if answer, ok := f.known.Get(key); ok {
		above, _ := answer.(*metav1.OwnerReference)
		return above
	}
	mapping, err := f.mapping(ctx, of)
	if err != nil {
		return nil // not remembered: the kind may be there in a moment
	}
	above, err := f.ask(ctx, mapping, namespace, of)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil // nobody waits for it any more
	}
	f.known.Add(key, above, remembered)
	return above
}

// short tells that a reference can be one to an object, and can be remembered.
func short(of *metav1.OwnerReference) bool {
	return max(len(of.APIVersion), len(of.Kind), len(of.Name), len(of.UID)) <= longestName
}

func (f *foreign) ask(ctx context.Context, mapping *meta.RESTMapping, namespace string, of *metav1.OwnerReference) (*metav1.OwnerReference, error) {
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		namespace = ""
	}
	object, err := f.get(ctx, mapping, namespace, of.Name)
	if err != nil {
		return nil, err
	}
	above := metav1.GetControllerOf(object)
	if object.UID != of.UID || above == nil || !short(above) {
		return nil, nil //nolint:nilnil // nothing stands above, which is an answer
	}
	// What else the object says of itself is nobody's business.
	return &metav1.OwnerReference{APIVersion: above.APIVersion, Kind: above.Kind, Name: above.Name, UID: above.UID}, nil
}

// mapping is where a kind is served. The mapper is the apiserver's own and waits for discovery as long as that takes.
func (f *foreign) mapping(ctx context.Context, of *metav1.OwnerReference) (*meta.RESTMapping, error) {
	version, err := schema.ParseGroupVersion(of.APIVersion)
	if err != nil || version.Version == "" {
		return nil, fmt.Errorf("look for kind %s: version %q is none", of.Kind, of.APIVersion)
	}
	kind := version.WithKind(of.Kind)
	select {
	case f.seeking <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("look for kind %s: %w", kind, ctx.Err())
	}
	type answer struct {
		mapping *meta.RESTMapping
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		mapping, err := f.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		<-f.seeking
		answers <- answer{mapping, err}
	}()
	select {
	case a := <-answers:
		return a.mapping, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("look for kind %s: %w", kind, ctx.Err())
	}
}

// onlyMetadata is a format in which no apiserver sends more of an object.
const onlyMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// metadataBy reads the metadata of an object of any kind.
func metadataBy(client rest.Interface) func(context.Context, *meta.RESTMapping, string, string) (*metav1.PartialObjectMetadata, error) {
	return func(ctx context.Context, of *meta.RESTMapping, namespace, name string) (*metav1.PartialObjectMetadata, error) {
		at := []string{"apis", of.Resource.Group, of.Resource.Version}
		if of.Resource.Group == "" {
			at = []string{"api", of.Resource.Version}
		}
		body, err := client.Get().AbsPath(at...).NamespaceIfScoped(namespace, namespace != "").Resource(of.Resource.Resource).Name(name).
			SetHeader("Accept", onlyMetadata).Do(ctx).Raw()
		if err != nil {
			return nil, fmt.Errorf("read %s %s: %w", of.Resource.Resource, name, err)
		}
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(body, &object); err != nil {
			return nil, fmt.Errorf("read %s %s: %w", of.Resource.Resource, name, err)
		}
		return &object, nil
	}
}
