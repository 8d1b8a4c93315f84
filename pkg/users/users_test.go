package users_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/users"
)

const year = 365 * 24 * time.Hour

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   users.Request
		want []string // in the error text; none: no error
	}{
		{name: "a tenant", in: users.Request{Name: "alice", Namespaces: []string{"a", "b"}, Life: year}},
		{name: "an operator without namespaces", in: users.Request{Name: "olga", Operator: true, Life: year}},
		{name: "no namespaces", in: users.Request{Name: "alice", Life: year}, want: []string{"make user alice: no namespaces are named"}},
		{name: "an administrator", in: users.Request{Name: "root", Admin: true, Life: year}},
		{name: "an administrator with namespaces", in: users.Request{Name: "root", Admin: true, Namespaces: []string{"a"}, Life: year}, want: []string{"make user root: an administrator has every right already"}},
		{name: "a name with a colon", in: users.Request{Name: "alice:x", Operator: true, Life: year}, want: []string{`use name "alice:x"`}},
		{name: "a name in capitals", in: users.Request{Name: "Alice", Operator: true, Life: year}, want: []string{`use name "Alice"`}},
		{name: "no name", in: users.Request{Operator: true, Life: year}, want: []string{`use name ""`}},
		{name: "a long name", in: users.Request{Name: strings.Repeat("a", 41), Operator: true, Life: year}, want: []string{"no more than 40"}},
		{name: "the cluster's namespaces", in: users.Request{Name: "alice", Namespaces: []string{"kube-system", "default", "kube-x"}, Life: year},
			want: []string{"use namespace kube-system: it belongs", "use namespace default: it belongs", "use namespace kube-x: it belongs"}},
		{name: "no namespace name", in: users.Request{Name: "alice", Namespaces: []string{"a/b"}, Life: year}, want: []string{`use namespace "a/b"`}},
		{name: "twice", in: users.Request{Name: "alice", Namespaces: []string{"a", "a"}, Life: year}, want: []string{"use namespace a: it is named twice"}},
		{name: "valid for too long", in: users.Request{Name: "alice", Namespaces: []string{"a"}, Life: year + time.Hour}, want: []string{"cannot be valid for 8761h"}},
		{name: "valid for no time", in: users.Request{Name: "alice", Namespaces: []string{"a"}}, want: []string{"cannot be valid for 0s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.in.Validate()
			if (err == nil) != (len(tt.want) == 0) {
				t.Fatalf("Validate = %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Validate = %v, want %q in it", err, want)
				}
			}
			if err != nil && len(hint.Of(err)) == 0 {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}

// cluster is a fake apiserver that signs what is approved, as the controller-manager does.
func cluster(t *testing.T, objects ...runtime.Object) *fake.Clientset {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(objects...)
	client.PrependReactor("update", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "approval" {
			return false, nil, nil
		}
		csr := action.(clienttesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
		block, _ := pem.Decode(csr.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return true, nil, err
		}
		end := time.Now().Add(time.Duration(*csr.Spec.ExpirationSeconds) * time.Second)
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: request.Subject, NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, request.PublicKey, key)
		csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err == nil {
			err = client.Tracker().Update(action.GetResource(), csr, "")
		}
		return true, csr, err
	})
	client.PrependReactor("create", "resourcequotas", func(action clienttesting.Action) (bool, runtime.Object, error) {
		quota := action.(clienttesting.CreateAction).GetObject().(*corev1.ResourceQuota)
		quota.Status.Used = corev1.ResourceList{"pods": resource.MustParse("0")}
		return false, nil, nil
	})
	return client
}

// held lists what was made for users: bindings with their subjects, namespaces and their bounds, and requests for certificates.
func held(t *testing.T, client *fake.Clientset) []string {
	t.Helper()
	ctx := context.Background()
	out := []string{}
	clusterBindings, err := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range clusterBindings.Items {
		out = append(out, b.Name+" "+b.RoleRef.Name+subjectNames(b.Subjects))
	}
	bindings, err := client.RbacV1().RoleBindings("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bindings.Items {
		out = append(out, b.Namespace+" "+b.RoleRef.Name+subjectNames(b.Subjects))
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range namespaces.Items {
		out = append(out, "namespace "+ns.Name+" of "+ns.Labels[users.Label])
	}
	quotas, err := client.CoreV1().ResourceQuotas("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range quotas.Items {
		out = append(out, fmt.Sprintf("quota of %s: %d", q.Namespace, len(q.Spec.Hard)))
	}
	limits, err := client.CoreV1().LimitRanges("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range limits.Items {
		out = append(out, fmt.Sprintf("limits of %s: %d", l.Namespace, len(l.Spec.Limits)))
	}
	requests, err := client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests.Items {
		out = append(out, "request "+r.Name)
	}
	return out
}

func subjectNames(subjects []rbacv1.Subject) string {
	var out strings.Builder
	for _, s := range subjects {
		out.WriteString(" " + s.Name)
	}
	return out.String()
}

// quota is how held names the default one.
func quota(ns string) string {
	return fmt.Sprintf("quota of %s: %d", ns, len(users.DefaultBounds().Quota))
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestCreateListDelete(t *testing.T) {
	ctx := t.Context()
	client := cluster(t, namespace("a"))
	keeper := users.New(client)
	alice, err := keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"a", "b"}, Join: true, Life: year})
	if err != nil {
		t.Fatal(err)
	}
	olga, err := keeper.Create(ctx, users.Request{Name: "olga", Operator: true, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(alice.Username, "nodeless:user:alice:") || len(alice.Username) != len("nodeless:user:alice:")+8 {
		t.Errorf("the name in the certificate is %q, want a random part of 8 digits behind the name", alice.Username)
	}
	want := []string{
		"nodeless:user:alice nodeless:tenant-cluster " + alice.Username,
		"nodeless:user:olga nodeless:operator " + olga.Username,
		"a nodeless:tenant " + alice.Username,
		"b nodeless:tenant " + alice.Username,
		"namespace a of ", "namespace b of alice",
		quota("a"), quota("b"), "limits of a: 1", "limits of b: 1",
	}
	if diff := cmp.Diff(want, held(t, client)); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b"}, alice.Made); diff != "" {
		t.Errorf("namespaces made (-want +got):\n%s", diff)
	}
	list, err := keeper.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	alice.Expires, olga.Expires = alice.Expires.Truncate(time.Second), olga.Expires.Truncate(time.Second)
	if diff := cmp.Diff([]users.User{alice.User, olga.User}, list); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}

	if _, err := keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"c"}, Life: year}); !errors.Is(err, users.ErrExists) || len(hint.Of(err)) == 0 {
		t.Errorf("alice again: %v, want ErrExists with a hint", err)
	}
	if diff := cmp.Diff(want, held(t, client)); diff != "" {
		t.Errorf("after a refused user (-want +got):\n%s", diff)
	}

	gone, err := keeper.Delete(ctx, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alice.User, gone.User); diff != "" || gone.Left != nil {
		t.Errorf("removed, leaving %v (-want +got):\n%s", gone.Left, diff)
	}
	want = []string{"nodeless:user:olga nodeless:operator " + olga.Username, "namespace a of ", "namespace b of alice", quota("a"), quota("b"), "limits of a: 1", "limits of b: 1"}
	if diff := cmp.Diff(want, held(t, client)); diff != "" {
		t.Errorf("after Delete (-want +got):\n%s", diff)
	}
	if _, err := keeper.Delete(ctx, "alice"); !errors.Is(err, users.ErrUnknown) || len(hint.Of(err)) == 0 {
		t.Errorf("deleted twice: %v, want ErrUnknown with a hint", err)
	}
	again, err := keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"b"}, Life: year}) // the namespace of an alice before
	if err != nil || again.Username == alice.Username {
		t.Errorf("made again as %q, %v; want another name than before: an old certificate must stay dead", again.Username, err)
	}
}

// TestDeleteTakesWhatTheUserGaveItself: a tenant may bind roles in its namespace, so deleting its own bindings is not enough.
func TestDeleteTakesWhatTheUserGaveItself(t *testing.T) {
	ctx := t.Context()
	client := cluster(t)
	keeper := users.New(client)
	alice, err := keeper.Create(ctx, users.Request{Name: "alice", Namespaces: []string{"a"}, Life: year})
	if err != nil {
		t.Fatal(err)
	}
	// This user's name begins as the other's.
	ali, err := keeper.Create(ctx, users.Request{Name: "ali", Namespaces: []string{"a"}, Join: true, Life: year})
	if err != nil {
		t.Fatal(err)
	}
	self := rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: alice.Username}
	robot := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "a", Name: "robot"}
	bind := func(ns, name string, subjects ...rbacv1.Subject) {
		b := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: name}, Subjects: subjects}
		if _, err := client.RbacV1().RoleBindings(ns).Create(ctx, b, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bind("a", "mine", self)
	bind("a", "ours", self, robot)
	bind("elsewhere", "guest", self)
	bind("elsewhere", "theirs", robot)
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "more"}, RoleRef: rbacv1.RoleRef{Name: "more"}, Subjects: []rbacv1.Subject{self}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	gone, err := keeper.Delete(ctx, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/ours"}, gone.Left); diff != "" {
		t.Errorf("what is left to look at (-want +got):\n%s", diff)
	}
	want := []string{
		"nodeless:user:ali nodeless:tenant-cluster " + ali.Username,
		"a nodeless:tenant " + ali.Username, "a ours robot", "elsewhere theirs robot",
		"namespace a of alice", quota("a"), "limits of a: 1",
	}
	if diff := cmp.Diff(want, held(t, client)); diff != "" {
		t.Errorf("after Delete (-want +got):\n%s", diff)
	}
}

func TestCreateUndoesWhatItBegan(t *testing.T) {
	broken := errors.New("disk full")
	ending := namespace("ending")
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	ending.Finalizers = []string{"x"}
	for _, tt := range []struct {
		name     string
		verb, of string // the call that fails: the first one, or the second where the first has something to undo
		third    string // namespace
	}{
		{name: "approval", verb: "update", of: "certificatesigningrequests", third: "c"},
		{name: "record", verb: "create", of: "clusterrolebindings", third: "c"},
		{name: "namespace", verb: "create", of: "namespaces", third: "c"},
		{name: "binding", verb: "create", of: "rolebindings", third: "c"},
		{name: "quota", verb: "create", of: "resourcequotas", third: "c"},
		{name: "limits", verb: "create", of: "limitranges", third: "c"},
		{name: "a namespace that is ending", verb: "none", third: "ending"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := cluster(t, namespace("a"), ending)
			calls := 0
			client.PrependReactor(tt.verb, tt.of, func(clienttesting.Action) (bool, runtime.Object, error) {
				calls++
				return calls > 1 || tt.of == "certificatesigningrequests" || tt.of == "clusterrolebindings", nil, broken
			})
			_, err := users.New(client).Create(t.Context(), users.Request{Name: "alice", Namespaces: []string{"b", "a", tt.third}, Join: true, Life: year})
			if err == nil || tt.verb != "none" && !errors.Is(err, broken) || tt.verb == "none" && len(hint.Of(err)) == 0 {
				t.Errorf("Create = %v", err)
			}
			if diff := cmp.Diff([]string{"namespace a of ", "namespace ending of "}, held(t, client)); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
		})
	}
}
