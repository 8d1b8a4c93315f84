package bounds_test

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
)

func TestValidate(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "a", Name: "x", Annotations: map[string]string{"kubernetes.io/service-account.name": "robot"}}
	for _, tt := range []struct {
		name    string
		who     string
		object  runtime.Object
		refused bool
	}{
		{name: "an event", who: "alice", object: &core.Event{ObjectMeta: meta, Message: strings.Repeat("x", 1024)}},
		{name: "an event with a long message", who: "alice", object: &core.Event{ObjectMeta: meta, Message: strings.Repeat("x", 17<<10)}, refused: true},
		{name: "an event with a long label", who: "root", object: &core.Event{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": strings.Repeat("x", 17<<10)}}}, refused: true},
		{name: "an event with a long action", who: "alice", object: &core.Event{ObjectMeta: meta, Action: strings.Repeat("x", 17<<10)}, refused: true},
		{name: "a large Secret", who: "alice", object: &core.Secret{ObjectMeta: meta, Data: map[string][]byte{"a": make([]byte, 1<<20)}}},
		{name: "a token without an end", who: "alice", object: &core.Secret{ObjectMeta: meta, Type: core.SecretTypeServiceAccountToken}, refused: true},
		{name: "a token without an end for one who may be the account", who: "root", object: &core.Secret{ObjectMeta: meta, Type: core.SecretTypeServiceAccountToken}},
		{name: "another object", who: "alice", object: &core.ConfigMap{ObjectMeta: meta}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plugin := bounds.New(nil)
			if plugin.ValidateInitialization() == nil {
				t.Error("the plugin starts without an authorizer")
			}
			plugin.SetAuthorizer(authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				if a.GetUser().GetName() == "root" && a.GetVerb() == "impersonate" && a.GetResource() == "serviceaccounts" && a.GetName() == "robot" && a.GetNamespace() == "a" {
					return authorizer.DecisionAllow, "", nil
				}
				return authorizer.DecisionNoOpinion, "", nil
			}))
			a := admission.NewAttributesRecord(tt.object, nil, core.Kind("X").WithVersion("v1"), "a", "x", core.Resource("xs").WithVersion("v1"), "", admission.Create, nil, false, &user.DefaultInfo{Name: tt.who})
			if err := plugin.Validate(t.Context(), a, nil); apierrors.IsForbidden(err) != tt.refused || (err != nil) != tt.refused {
				t.Errorf("Validate = %v, want it refused: %t", err, tt.refused)
			}
		})
	}
}

// TestPace: what comes too fast is refused before a quota counts it.
func TestPace(t *testing.T) {
	plugin := bounds.New(func(namespace string, large bool) time.Duration {
		switch {
		case namespace == "slow" || namespace == "half" && large:
			return 1500 * time.Millisecond
		}
		return 0
	})
	for _, tt := range []struct {
		name, namespace, subresource string
		object                       runtime.Object
		operation                    admission.Operation
		dryRun, refused              bool
	}{
		{name: "a ConfigMap", namespace: "slow", object: &core.ConfigMap{}, operation: admission.Create, refused: true},
		{name: "a Pod", namespace: "slow", object: &core.Pod{}, operation: admission.Create, refused: true},
		{name: "a Secret that may be large", namespace: "half", object: &core.Secret{}, operation: admission.Create, refused: true},
		{name: "a custom resource that may be large", namespace: "half", object: &unstructured.Unstructured{}, operation: admission.Create, refused: true},
		{name: "a Pod, which is smaller", namespace: "half", object: &core.Pod{}, operation: admission.Create},
		{name: "in another namespace", namespace: "a", object: &core.ConfigMap{}, operation: admission.Create},
		{name: "an update, which no quota counts", namespace: "slow", object: &core.ConfigMap{}, operation: admission.Update},
		{name: "an eviction", namespace: "slow", subresource: "eviction", object: &core.Pod{}, operation: admission.Create},
		{name: "a question", namespace: "slow", object: &core.ConfigMap{}, operation: admission.Create, dryRun: true},
		{name: "an event", namespace: "slow", object: &core.Event{}, operation: admission.Create},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := admission.NewAttributesRecord(tt.object, nil, core.Kind("X").WithVersion("v1"), tt.namespace, "x", core.Resource("xs").WithVersion("v1"), tt.subresource, tt.operation, nil, tt.dryRun, &user.DefaultInfo{Name: "alice"})
			err := plugin.Validate(t.Context(), a, nil)
			if apierrors.IsTooManyRequests(err) != tt.refused || (err != nil) != tt.refused {
				t.Fatalf("Validate = %v, want it refused: %t", err, tt.refused)
			}
			if seconds, known := apierrors.SuggestsClientDelay(err); tt.refused && (!known || seconds != 2) {
				t.Errorf("come again in %d seconds (%t), want 2", seconds, known)
			}
		})
	}
}
