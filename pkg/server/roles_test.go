package server_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/users"
)

// people are the clients of a cluster with two tenants and an operator: alice has the namespaces a and a2, bob has b.
type people struct {
	admin   kubernetes.Interface
	keeper  *users.Keeper
	ca      []byte
	server  string
	configs map[string]*rest.Config
	clients map[string]kubernetes.Interface
}

// TestRoles tries what tenants and operators can do: every verb on every resource, as the table in testdata/roles.table has it, and the
// requests by which one would get at somebody else's things or at the hosts.
func TestRoles(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	dir := t.TempDir()
	server := startServer(t, dir)
	p := newPeople(t, server, dir)
	if p.server != "https://10.99.0.1:6443" {
		t.Fatalf("Server = %s, want the address of the host", p.server)
	}
	p.add(t, users.Request{Name: "alice", Namespaces: []string{"a", "a2"}, Life: time.Hour})
	p.add(t, users.Request{Name: "bob", Namespaces: []string{"b"}, Life: time.Hour})
	p.add(t, users.Request{Name: "olga", Operator: true, Life: time.Hour})
	p.furnish(t)

	t.Run("table", p.testTable)
	t.Run("tenant", func(t *testing.T) { try(t, p.tenantAttempts()) })
	t.Run("installed", p.testInstalledRoles)
	t.Run("quota", p.testQuotaCountsTheMicroVM)
	t.Run("operator", func(t *testing.T) { try(t, p.operatorAttempts()) })
	t.Run("deleted", p.testDeleted)
	server.stop(t)
}

// newPeople waits for the server and its roles.
func newPeople(t *testing.T, server *process, dir string) *people {
	t.Helper()
	p := &people{admin: server.ready(t, dir), configs: make(map[string]*rest.Config), clients: make(map[string]kubernetes.Interface)}
	admin, err := kube.FromKubeconfig(dir + "/kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	p.ca, p.keeper = admin.CAData, users.New(p.admin)
	awaitRoles(t, p.admin)
	if p.server, err = p.keeper.Server(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// awaitRoles waits until the cluster has the roles, and the controller has put together those that others add to.
func awaitRoles(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	for _, name := range []string{users.RoleTenant, users.RoleOperator, users.RoleTenantCluster} {
		eventually(t, "role "+name, func(ctx context.Context) (bool, error) {
			role, err := admin.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(role.Rules) > 0, err
		})
	}
}

// add makes a user and a client with the kubeconfig it gets.
func (p *people) add(t *testing.T, r users.Request) {
	t.Helper()
	grant, err := p.keeper.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(grant.Expires); left > r.Life || left < r.Life-10*time.Minute {
		t.Errorf("the certificate of %s is valid for %s, want %s", r.Name, left, r.Life)
	}
	text, err := kube.Identity{Server: p.server, CA: p.ca, Cert: grant.Cert, Key: grant.Key, User: r.Name}.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.configs[r.Name], p.clients[r.Name] = cfg, client
}

// furnish puts into the namespaces what the others are to try their hands on.
func (p *people) furnish(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if _, err := p.admin.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	global := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "eks-config"}}
	if _, err := p.admin.CoreV1().ConfigMaps(metav1.NamespaceSystem).Create(ctx, global, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"a", "a2", "b"} {
		eventually(t, "the ServiceAccount of namespace "+ns, func(ctx context.Context) (bool, error) {
			_, err := p.admin.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
			return err == nil, err
		})
		if _, err := p.admin.CoreV1().Pods(ns).Create(ctx, simplePod("there"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "there"}, StringData: map[string]string{"key": "value"}}
		if _, err := p.admin.CoreV1().Secrets(ns).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.admin.CoreV1().Pods("a").Create(ctx, simplePod("over"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A patch, since the scheduler writes the status, too. The address is one where somebody else listens.
	over := map[string]any{"status": corev1.PodStatus{Phase: corev1.PodSucceeded, PodIP: "10.99.0.1", PodIPs: []corev1.PodIP{{IP: "10.99.0.1"}}}}
	if err := patch(p.admin, "/api/v1/namespaces/a/pods/over/status", over)(ctx); err != nil {
		t.Fatal(err)
	}
}

func simplePod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "docker.io/nodeless/hello:1"}}}}
}

// tableRow is a line of testdata/roles.table.
type tableRow struct {
	group, resource  string
	namespaced       bool
	tenant, operator map[string]bool // verbs
}

var (
	readVerbs    = []string{"get", "list", "watch"}
	writeVerbs   = []string{"create", "update", "patch", "delete", "deletecollection"}
	specialVerbs = []string{"bind", "escalate", "impersonate", "approve", "sign", "attest", "proxy", "use", "*"}
)

// testInstalledRoles: what is installed in a cluster adds to what tenants can, by the labels that charts have. It adds to it in their own
// namespaces alone, and nothing of the cluster's.
func (p *people) testInstalledRoles(t *testing.T) {
	every := slices.Concat(readVerbs, writeVerbs)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cert-manager-edit", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-edit": "true"}},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"cert-manager.io"}, Resources: []string{"certificates"}, Verbs: every},
			{APIGroups: []string{""}, Resources: []string{"nodes", "persistentvolumes", "secrets"}, Verbs: every},
		}}
	if _, err := p.admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	can := func(ns, group, resource string) review {
		return review{who: "alice", spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "create", Group: group, Resource: resource}}}
	}
	own := can("a", "cert-manager.io", "certificates")
	eventually(t, "the right to make certificates", func(ctx context.Context) (bool, error) {
		got, err := p.clients["alice"].AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: own.spec}, metav1.CreateOptions{})
		return err == nil && got.Status.Allowed, err
	})
	p.ask(t, []review{can("b", "cert-manager.io", "certificates"), can("", "cert-manager.io", "certificates"), can("kube-system", "", "secrets"), can("b", "", "secrets"),
		can("", "", "nodes"), can("", "", "persistentvolumes"), can("", "", "secrets")})
	if err := p.admin.RbacV1().ClusterRoles().Delete(t.Context(), role.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// testQuotaCountsTheMicroVM: a Pod that asks for nothing is 1C2Gi, and in a quota of memory 448 MiB more, as docs/users.md says.
func (p *people) testQuotaCountsTheMicroVM(t *testing.T) {
	quotas := p.admin.CoreV1().ResourceQuotas("a2")
	try := func(most string) error {
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "small"},
			Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"limits.memory": resource.MustParse(most)}}}
		if _, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the quota to be counted", func(ctx context.Context) (bool, error) {
			got, err := quotas.Get(ctx, "small", metav1.GetOptions{})
			return err == nil && len(got.Status.Used) > 0, err
		})
		// One that is there already counts, too: simplePod "there".
		_, err := p.clients["alice"].CoreV1().Pods("a2").Create(t.Context(), simplePod("counted"), metav1.CreateOptions{})
		if err := quotas.Delete(t.Context(), "small", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the quota", func(ctx context.Context) (bool, error) {
			_, err := quotas.Get(ctx, "small", metav1.GetOptions{})
			return apierrors.IsNotFound(err), err
		})
		return err
	}
	if err := try("4991Mi"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "limits.memory=2496Mi") {
		t.Errorf("a second Pod that asks for nothing, where 4991Mi are left for both: %v, want it refused", err)
	}
	if err := try("4992Mi"); err != nil {
		t.Errorf("a second Pod that asks for nothing, where 4992Mi are left for both: %v", err)
	}
}

// readTable gives the rows by "group/resource", and for each path that is no resource whether a tenant and an operator may get it.
func readTable(t *testing.T) (rows map[string]tableRow, paths map[string][2]bool) {
	t.Helper()
	text, err := os.ReadFile("testdata/roles.table")
	if err != nil {
		t.Fatal(err)
	}
	rows, paths = make(map[string]tableRow), make(map[string][2]bool)
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		case section == "paths" && len(fields) == 3:
			paths[fields[0]] = [2]bool{fields[1] == "yes", fields[2] == "yes"}
		case len(fields) == 4:
			group := section
			if group == "core" {
				group = ""
			}
			rows[group+"/"+fields[1]] = tableRow{group: group, resource: fields[1], namespaced: fields[0] == "ns", tenant: verbSet(fields[2]), operator: verbSet(fields[3])}
		default:
			t.Fatalf("roles.table:%d: %q is no row", i+1, line)
		}
	}
	return rows, paths
}

func verbSet(text string) map[string]bool {
	set := make(map[string]bool)
	for _, word := range strings.Split(text, ",") {
		list := []string{word}
		switch word {
		case "-":
			list = nil
		case "r":
			list = readVerbs
		case "w":
			list = writeVerbs
		}
		for _, verb := range list {
			set[verb] = true
		}
	}
	return set
}

// testTable asks the apiserver about every verb on every row, in the own namespaces, in others', and in the whole cluster.
func (p *people) testTable(t *testing.T) {
	rows, paths := readTable(t)
	p.expectComplete(t, rows)
	var reviews []review
	ask := func(who, ns string, row tableRow, want map[string]bool) {
		verbs := slices.Concat(readVerbs, writeVerbs)
		if ns != "a2" && ns != "kube-system" {
			verbs = append(verbs, specialVerbs...)
		}
		for _, verb := range verbs {
			resource, sub, _ := strings.Cut(row.resource, "/")
			reviews = append(reviews, review{who: who, want: want[verb], spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: verb, Group: row.group, Resource: resource, Subresource: sub}}})
		}
	}
	own := map[string][]string{"alice": {"a", "a2"}, "bob": {"b"}}
	for _, row := range rows {
		ask("olga", "", row, row.operator)
		ask("alice", "", row, onlyIf(!row.namespaced, row.tenant))
		ask("bob", "", row, onlyIf(!row.namespaced, row.tenant))
		if !row.namespaced {
			continue
		}
		for _, ns := range []string{"a", "a2", "b", "default", "kube-system"} {
			ask("olga", ns, row, row.operator)
			for who, spaces := range own {
				ask(who, ns, row, onlyIf(slices.Contains(spaces, ns), row.tenant))
			}
		}
	}
	for path, allowed := range paths {
		spec := authorizationv1.SelfSubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"}}
		reviews = append(reviews, review{who: "alice", want: allowed[0], spec: spec}, review{who: "olga", want: allowed[1], spec: spec})
	}
	p.ask(t, reviews)
}

func onlyIf(cond bool, verbs map[string]bool) map[string]bool {
	if cond {
		return verbs
	}
	return nil
}

// expectComplete finds the resources that the cluster serves and the table does not know, so that each new one is thought about.
func (p *people) expectComplete(t *testing.T, rows map[string]tableRow) {
	t.Helper()
	_, lists, err := p.admin.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	served := 0
	for _, list := range lists {
		group, _, found := strings.Cut(list.GroupVersion, "/")
		if !found {
			group = ""
		}
		for _, r := range list.APIResources {
			served++
			if group == "custom.metrics.k8s.io" && strings.HasPrefix(r.Name, "pods/") {
				continue // each metric is a resource here; the table has one of them
			}
			row, ok := rows[group+"/"+r.Name]
			if !ok {
				t.Errorf("roles.table has no row for %s of group %q; decide who may do what with it", r.Name, group)
			} else if row.namespaced != r.Namespaced {
				t.Errorf("roles.table has the wrong scope for %s of group %q", r.Name, group)
			}
		}
	}
	if served < 100 {
		t.Errorf("the cluster serves %d resources, want all of Kubernetes", served)
	}
}

// review is a question and the answer that it must get.
type review struct {
	who  string
	want bool
	spec authorizationv1.SelfSubjectAccessReviewSpec
}

func (r review) String() string {
	if n := r.spec.NonResourceAttributes; n != nil {
		return fmt.Sprintf("%s %s %s", r.who, n.Verb, n.Path)
	}
	a := r.spec.ResourceAttributes
	return fmt.Sprintf("%s in %q: %s %s/%s %s", r.who, a.Namespace, a.Verb, a.Resource, a.Subresource, a.Group)
}

// ask asks all of them, a few at a time.
func (p *people) ask(t *testing.T, reviews []review) {
	t.Helper()
	began := time.Now()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		wrong = make(map[string]string) // guarded by mu
		work  = make(chan review)
	)
	for range 4 {
		wg.Go(func() {
			for r := range work {
				result, err := p.clients[r.who].AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: r.spec}, metav1.CreateOptions{})
				answer := ""
				switch {
				case err != nil:
					answer = err.Error()
				case result.Status.Allowed != r.want:
					answer = fmt.Sprintf("allowed %t, want %t: %s", result.Status.Allowed, r.want, result.Status.Reason)
				default:
					continue
				}
				mu.Lock()
				wrong[r.String()] = answer
				mu.Unlock()
			}
		})
	}
	for _, r := range reviews {
		work <- r
	}
	close(work)
	wg.Wait()
	t.Logf("%d questions in %s", len(reviews), time.Since(began).Round(time.Millisecond))
	for i, key := range slices.Sorted(maps.Keys(wrong)) {
		if i == 100 {
			t.Fatalf("and %d more", len(wrong)-i)
		}
		t.Errorf("%s: %s", key, wrong[key])
	}
}

// attempt is a request and what must come of it.
type attempt struct {
	name string
	want outcome
	do   func(context.Context) error
}

type outcome string

const (
	works   outcome = "works"
	refused outcome = "is refused"
	invalid outcome = "is invalid"
	reaches outcome = "reaches the API" // which has its own reasons to say no
)

func try(t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		err := a.do(t.Context())
		got := works
		switch {
		case apierrors.IsForbidden(err):
			got = refused
		case apierrors.IsInvalid(err):
			got = invalid
		case err != nil:
			got = reaches
		}
		if got != a.want {
			t.Errorf("%s: %v, want that it %s", a.name, err, a.want)
		}
	}
}

// raw is a request by its path.
func raw(client kubernetes.Interface, verb, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		return client.Discovery().RESTClient().Verb(verb).RequestURI(path).Do(ctx).Error()
	}
}

// as is the client of somebody who says to be somebody else.
func (p *people) as(who string, other rest.ImpersonationConfig) kubernetes.Interface {
	cfg := rest.CopyConfig(p.configs[who])
	cfg.Impersonate = other
	return kubernetes.NewForConfigOrDie(cfg)
}

// testDeleted: a user who is deleted can do nothing, not even by what it gave itself; nor can it when another of its name is made.
func (p *people) testDeleted(t *testing.T) {
	ctx := t.Context()
	old := p.clients["alice"]
	me, err := p.keeper.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range me {
		got = append(got, fmt.Sprintf("%s %t %v", u.Name, u.Operator, u.Namespaces))
	}
	if diff := cmp.Diff([]string{"alice false [a a2]", "bob false [b]", "olga true []"}, got); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	if _, err := old.RbacV1().RoleBindings("a").Create(ctx, roleBinding("again", "ClusterRole", users.RoleTenant, me[0].Username), metav1.CreateOptions{}); err != nil {
		t.Fatalf("alice binds what it has, to itself: %v", err)
	}
	if _, err := p.keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"c"}, Life: time.Hour}); len(hint.Of(err)) == 0 {
		t.Errorf("alice twice: %v, want an error with a hint", err)
	}
	if _, err := p.keeper.Delete(ctx, "alice"); err != nil {
		t.Fatal(err)
	}
	powerless := func(ctx context.Context) (bool, error) {
		for _, path := range []string{"/api/v1/namespaces/a/pods", "/api/v1/namespaces/a2/pods", "/api/v1/namespaces/a", "/apis/storage.k8s.io/v1/storageclasses"} {
			if err := raw(old, http.MethodGet, path)(ctx); !apierrors.IsForbidden(err) {
				return false, fmt.Errorf("%s: %v", path, err)
			}
		}
		return true, nil
	}
	eventually(t, "the end of alice's rights", powerless)
	p.add(t, users.Request{Name: "alice", Namespaces: []string{"a"}, Life: time.Hour})
	eventually(t, "the rights of the new alice", func(ctx context.Context) (bool, error) {
		_, err := p.clients["alice"].CoreV1().Pods("a").List(ctx, metav1.ListOptions{})
		return err == nil, err
	})
	if ok, err := powerless(ctx); !ok {
		t.Errorf("with a new alice the old certificate has rights again: %v", err)
	}
}
