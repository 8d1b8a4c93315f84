package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// FieldManager owns the fields that Apply sets.
const FieldManager = "nodeless"

// Manifests reads all objects of the *.yaml files in dir of fsys, in the order of their names. Every
// occurrence of ${KEY} is replaced by values[KEY] first; one without a value is an error.
func Manifests(fsys fs.FS, dir string, values map[string]string) ([]*unstructured.Unstructured, error) {
	names, err := fs.Glob(fsys, dir+"/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if data, err = expand(data, values); err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", name, err)
		}
		found, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", name, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func expand(data []byte, values map[string]string) ([]byte, error) {
	for key, value := range values {
		data = bytes.ReplaceAll(data, []byte("${"+key+"}"), []byte(value))
	}
	if i := bytes.Index(data, []byte("${")); i >= 0 {
		return nil, fmt.Errorf("no value for %q", data[i:min(i+20, len(data))])
	}
	return data, nil
}

func decode(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		obj := &unstructured.Unstructured{}
		err := decoder.Decode(obj)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(obj.Object) == 0 {
			continue
		}
		if obj.GetKind() == "" || obj.GetName() == "" {
			return nil, fmt.Errorf("object without kind or name: %v", obj.Object)
		}
		objects = append(objects, obj)
	}
}

// Apply makes the cluster hold objects, by server-side apply. Fields that others own are taken over, fields
// that the objects do not mention are left alone. It is safe to repeat. Objects are of kinds whose resource name is
// the regular plural, so no discovery is needed.
func Apply(ctx context.Context, client dynamic.Interface, objects []*unstructured.Unstructured) error {
	for _, obj := range objects {
		if _, err := target(client, obj).Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: FieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return nil
}

// Remove makes the cluster hold none of objects that Apply has made; one that somebody else made under the same name stays.
func Remove(ctx context.Context, client dynamic.Interface, objects []*unstructured.Unstructured) error {
	for _, obj := range objects {
		have, err := target(client, obj).Get(ctx, obj.GetName(), metav1.GetOptions{})
		if err == nil && applied(have) {
			err = target(client, obj).Delete(ctx, obj.GetName(), metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.GetUID()))})
		}
		if IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return nil
}

// applied tells whether Apply had a hand in an object.
func applied(obj *unstructured.Unstructured) bool {
	return slices.ContainsFunc(obj.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == FieldManager && f.Operation == metav1.ManagedFieldsOperationApply
	})
}

// target is the place of an object in the API.
func target(client dynamic.Interface, obj *unstructured.Unstructured) dynamic.ResourceInterface {
	resource, _ := meta.UnsafeGuessKindToResource(obj.GroupVersionKind())
	if ns := obj.GetNamespace(); ns != "" {
		return client.Resource(resource).Namespace(ns)
	}
	return client.Resource(resource)
}
