package users_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/users"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackUnboundedKind: a tenant fills the database with objects of a kind that nobody has bounded. Every kind that nodeless:tenant can
// make is in the default quota; a new one fails here until it is.
func TestAttackUnboundedKind(t *testing.T) {
	attack.Try(t, "T6", "fill the database with a kind that no quota counts", func(t *testing.T) attack.Outcome {
		objects, err := kube.Manifests(manifests.System(), manifests.RolesDir, nil)
		if err != nil {
			t.Fatal(err)
		}
		unstored := map[string]string{"count/events": "EventRateLimit", "count/events.events.k8s.io": "EventRateLimit",
			"count/localsubjectaccessreviews.authorization.k8s.io": "answered, and not kept"}
		for _, kind := range []string{"daemonsets", "deployments", "ingresses", "networkpolicies", "replicasets"} {
			unstored["count/"+kind+".extensions"] = "no apiserver has the group any more; charts name it in Roles"
		}
		quota, seen := users.DefaultBounds().Quota, 0
		for _, obj := range objects {
			if obj.GetKind() != "ClusterRole" || obj.GetName() != "nodeless:aggregate-to-tenant" {
				continue
			}
			var role rbacv1.ClusterRole
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &role); err != nil {
				t.Fatal(err)
			}
			for _, key := range counted(role.Rules) {
				seen++
				if _, ok := quota[corev1.ResourceName(key)]; !ok && unstored[key] == "" {
					t.Errorf("a tenant can make objects that no quota bounds: %s", key)
				}
			}
		}
		if seen < 20 {
			t.Errorf("found %d kinds that a tenant can make, want all of nodeless:tenant", seen)
		}
		return attack.Contained
	})
}

// counted are the names in a quota of the kinds that somebody with these rules can make.
func counted(rules []rbacv1.PolicyRule) []string {
	var keys []string
	for _, rule := range rules {
		if !slices.Contains(rule.Verbs, "create") && !slices.Contains(rule.Verbs, "*") {
			continue
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if strings.Contains(resource, "/") {
					continue // of an object that is counted
				}
				key := "count/" + resource
				if group != "" {
					key += "." + group
				}
				keys = append(keys, key)
			}
		}
	}
	return keys
}

func TestWithQuota(t *testing.T) {
	for _, tt := range []struct {
		name    string
		changes []string
		want    map[corev1.ResourceName]string // "" for none of it
		fault   string
	}{
		{name: "nothing", want: map[corev1.ResourceName]string{"pods": "50", "limits.cpu": "64"}},
		{name: "one number", changes: []string{"pods=7"}, want: map[corev1.ResourceName]string{"pods": "7", "limits.cpu": "64"}},
		{name: "requests and limits", changes: []string{"memory=8Gi"}, want: map[corev1.ResourceName]string{"requests.memory": "8Gi", "limits.memory": "8Gi"}},
		{name: "a name of the operator's", changes: []string{"requests.nvidia.com/gpu=1"}, want: map[corev1.ResourceName]string{"requests.nvidia.com/gpu": "1", "pods": "50"}},
		{name: "one less", changes: []string{"cpu=none"}, want: map[corev1.ResourceName]string{"requests.cpu": "", "limits.cpu": "", "pods": "50"}},
		{name: "none", changes: []string{"none"}, want: map[corev1.ResourceName]string{"pods": "", "count/secrets": ""}},
		{name: "none and more", changes: []string{"none", "pods=1"}, fault: "there is more beside it"},
		{name: "no amount", changes: []string{"pods"}, fault: `use quota "pods": it is no NAME=AMOUNT`},
		{name: "less than nothing", changes: []string{"pods=-1"}, fault: `use quota "pods=-1": it is no NAME=AMOUNT`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := users.DefaultBounds().WithQuota(tt.changes)
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) || len(hint.Of(err)) == 0 {
					t.Errorf("WithQuota = %v, want %q with a hint", err, tt.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tt.want {
				have, ok := got.Quota[name]
				if ok != (want != "") || ok && have.String() != want {
					t.Errorf("%s = %s, want %q", name, have.String(), want)
				}
			}
		})
	}
}

// TestAttackJoin: an administrator is led to make a user in somebody else's namespace.
func TestAttackJoin(t *testing.T) {
	for _, tt := range []struct {
		name, ns, whose string
	}{
		{name: "join a tenant's namespace", ns: "shop", whose: "is that of alice"},
		{name: "join a namespace that was given to a tenant", ns: "old", whose: "is that of alice"},
		{name: "join a namespace of the administrator's", ns: "monitoring", whose: "is no tenant's"},
	} {
		attack.Try(t, "T21", tt.name, func(t *testing.T) attack.Outcome {
			client := cluster(t, namespace("old"), namespace("monitoring"))
			keeper := users.New(client)
			if _, err := keeper.Create(t.Context(), users.Request{Name: "alice", Namespaces: []string{"shop", "old"}, Join: true, Life: year}); err != nil {
				t.Fatal(err)
			}
			before := held(t, client)
			_, err := keeper.Create(t.Context(), users.Request{Name: "mallory", Namespaces: []string{"own", tt.ns}, Life: year})
			if err == nil {
				return attack.Succeeded
			}
			if !errors.Is(err, users.ErrForeign) || !strings.Contains(err.Error(), tt.whose) || len(hint.Of(err)) == 0 {
				t.Errorf("Create = %v, want %v with a hint, and that it %s", err, users.ErrForeign, tt.whose)
			}
			if diff := cmp.Diff(before, held(t, client)); diff != "" {
				t.Errorf("the refused user left something (-before +after):\n%s", diff)
			}
			if _, err := keeper.Create(t.Context(), users.Request{Name: "bob", Namespaces: []string{tt.ns}, Join: true, Life: year}); err != nil {
				t.Errorf("with the administrator's word: %v", err)
			}
			return attack.Refused
		})
	}
}

// TestQuotaThatIsThereStays: an operator's own quota is not added to, and not undone.
func TestQuotaThatIsThereStays(t *testing.T) {
	ctx := t.Context()
	client := cluster(t, namespace("a"), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "mine"}})
	keeper := users.New(client)
	grant, err := keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"a"}, Join: true, Bounds: &users.Bounds{Quota: users.DefaultBounds().Quota}, Life: year})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Undo(ctx, grant); err != nil {
		t.Fatal(err)
	}
	quotas, err := client.CoreV1().ResourceQuotas("a").List(ctx, metav1.ListOptions{})
	if err != nil || len(quotas.Items) != 1 || quotas.Items[0].Name != "mine" {
		t.Errorf("quotas = %v, %v, want the one that was there", quotas, err)
	}
}
