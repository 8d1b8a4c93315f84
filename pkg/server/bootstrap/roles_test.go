package bootstrap_test

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/auth/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/kube"
)

// withheld is what Kubernetes' own role admin has and a tenant has not, as "verb group/resource", with the reason.
// manifests/roles/tenant.yaml has the reasons as well.
var withheld = map[string]string{
	"impersonate /serviceaccounts": "a token is made, and has an end",
}

// withheldGroups are such for all of a group.
var withheldGroups = map[string]string{"resource.k8s.io": "there are no devices to claim"}

// clusterRoles are those of the manifests of roles.
func clusterRoles(t *testing.T) map[string]*rbacv1.ClusterRole {
	t.Helper()
	objects, err := kube.Manifests(manifests.System(), manifests.RolesDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]*rbacv1.ClusterRole{}
	for _, object := range objects {
		if object.GetKind() != "ClusterRole" {
			continue
		}
		var role rbacv1.ClusterRole
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &role); err != nil {
			t.Fatal(err)
		}
		roles[role.Name] = &role
	}
	return roles
}

// selects tells whether a role adds to an aggregated one.
func selects(t *testing.T, role *rbacv1.ClusterRole, set map[string]string) bool {
	t.Helper()
	return slices.ContainsFunc(role.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			t.Fatal(err)
		}
		return selector.Matches(labels.Set(set))
	})
}

// TestATenantCanWhatUpstreamsAdminCan: a chart's Role can be granted in a namespace by whoever has the namespace, rule by rule, but for
// what is withheld with a reason.
func TestATenantCanWhatUpstreamsAdminCan(t *testing.T) {
	tenant := clusterRoles(t)["nodeless:aggregate-to-tenant"].Rules
	asked := 0
	seen := map[string]bool{}
	for _, role := range bootstrappolicy.ClusterRoles() {
		if !slices.Contains([]string{"system:aggregate-to-admin", "system:aggregate-to-edit", "system:aggregate-to-view"}, role.Name) {
			continue
		}
		for _, rule := range role.Rules {
			for _, one := range validation.BreakdownRule(rule) {
				asked++
				name := one.Verbs[0] + " " + one.APIGroups[0] + "/" + one.Resources[0]
				has, _ := validation.Covers(tenant, []rbacv1.PolicyRule{one})
				_, whole := withheldGroups[one.APIGroups[0]]
				_, single := withheld[name]
				if whole {
					seen[one.APIGroups[0]] = true
				}
				if single {
					seen[name] = true
				}
				if has == (whole || single) {
					t.Errorf("%s: a tenant has it: %t, and it is withheld: %t", name, has, whole || single)
				}
			}
		}
	}
	if asked < 300 {
		t.Errorf("upstream's admin can only %d things", asked)
	}
	if len(seen) != len(withheld)+len(withheldGroups) {
		t.Errorf("of what is withheld upstream's admin has only %v", seen)
	}
}

// TestWhatIsInstalledAddsToTenants: a ClusterRole that adds to admin, edit or view adds to tenants, but none of Kubernetes' own.
func TestWhatIsInstalledAddsToTenants(t *testing.T) {
	roles := clusterRoles(t)
	for _, to := range []string{"admin", "edit", "view"} {
		label := map[string]string{"rbac.authorization.k8s.io/aggregate-to-" + to: "true"}
		if !selects(t, roles["nodeless:tenant"], label) {
			t.Errorf("what adds to %s does not add to tenants", to)
		}
		if selects(t, roles["nodeless:operator"], label) {
			t.Errorf("what adds to %s adds to operators, in all namespaces", to)
		}
	}
	checked := 0
	for _, role := range bootstrappolicy.ClusterRoles() {
		for label := range role.Labels {
			if strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-") {
				checked++
			}
		}
		if selects(t, roles["nodeless:tenant"], role.Labels) {
			t.Errorf("Kubernetes' own %s adds to tenants: its labels are %v", role.Name, role.Labels)
		}
	}
	if checked < 5 {
		t.Errorf("only %d of Kubernetes' own roles add to others", checked)
	}
}
