package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/nodeless/nodeless/pkg/users"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackControlPlane is what a tenant with a kubeconfig tries against the control plane, and others who have got hold of one.
func TestAttackControlPlane(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	dir := t.TempDir()
	server := startServer(t, dir)
	p := newPeople(t, server, dir)
	p.add(t, users.Request{Name: "alice", Namespaces: []string{"a", "a2"}, Life: time.Hour})
	p.add(t, users.Request{Name: "bob", Namespaces: []string{"b"}, Life: time.Hour})
	for _, a := range slices.Concat(p.fillAttacks(), p.identityAttacks(dir)) {
		attack.Try(t, a.threat, a.what, a.do)
	}
	attack.Try(t, "T6", "fill the disk with what a ConfigMap was", func(t *testing.T) attack.Outcome { return p.rewrite(t, dir) })
	t.Run("flood", p.flood)
	attack.Try(t, "T17", "go on with an administrator's kubeconfig that was taken its right", p.revokeAdministrator)
	server.stop(t)
	attack.Try(t, "T17", "go on with it after a restart, when its key was replaced", func(t *testing.T) attack.Outcome { return p.replaceAdministrator(t, dir) })
}

// attackRow is an attack and how to try it.
type attackRow struct {
	threat, what string
	do           func(*testing.T) attack.Outcome
}

// fillAttacks would fill the database.
func (p *people) fillAttacks() []attackRow {
	alice := p.clients["alice"]
	return []attackRow{
		{"T6", "make ConfigMaps without end", func(t *testing.T) attack.Outcome {
			return untilRefused(t, 200, func(ctx context.Context) error {
				_, err := alice.CoreV1().ConfigMaps("a").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "fill-"}}, metav1.CreateOptions{})
				return err
			})
		}},
		{"T6", "make Leases without end", func(t *testing.T) attack.Outcome {
			return untilRefused(t, 50, p.create("alice", schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, "Lease", nil))
		}},
		{"T15", "make objects that scale at set times without end", func(t *testing.T) attack.Outcome {
			return untilRefused(t, 20, p.create("alice", cronScalers(), "HorizontalPodCronscaler", cronScalerSpec()))
		}},
		{"T6", "claim more storage than one claim may have", func(t *testing.T) attack.Outcome {
			pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1100Gi")}}}}
			_, err := alice.CoreV1().PersistentVolumeClaims("a").Create(t.Context(), pvc, metav1.CreateOptions{})
			return refusedBy(t, err, "maximum storage usage per PersistentVolumeClaim is 1Ti")
		}},
		{"T6", "make a Deployment of a MiB", func(t *testing.T) attack.Outcome {
			d := deployment()
			d.Name, d.Spec.Template.Spec.Containers[0].Env = "large", []corev1.EnvVar{{Name: "X", Value: strings.Repeat("x", 1<<20)}}
			_, err := alice.AppsV1().Deployments("a").Create(t.Context(), d, metav1.CreateOptions{})
			if err == nil {
				return attack.Succeeded
			}
			if !apierrors.IsRequestEntityTooLargeError(err) || !strings.Contains(err.Error(), "up to 512 KiB") {
				t.Errorf("refused by %v", err)
			}
			return attack.Refused
		}},
		{"T6", "run more than the quota has", func(t *testing.T) attack.Outcome {
			end := untilRefused(t, 50, createPod(alice, "a", nil))
			quota, err := p.admin.CoreV1().ResourceQuotas("a").Get(t.Context(), "nodeless-tenant", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []corev1.ResourceName{"limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.ephemeral-storage"} {
				if used := quota.Status.Used[name]; used.IsZero() {
					t.Errorf("the quota counts no %s of Pods that say nothing", name)
				}
			}
			return end
		}},
		{"T6", "write a large event", func(t *testing.T) attack.Outcome {
			_, err := alice.CoreV1().Events("a").Create(t.Context(), event(strings.Repeat("x", 1<<20)), metav1.CreateOptions{})
			return refusedBy(t, err, "it may have 16384")
		}},
		{"T6", "write events without end", func(t *testing.T) attack.Outcome {
			return untilTooMany(t, func(ctx context.Context) error {
				_, err := alice.CoreV1().Events("a").Create(ctx, event("x"), metav1.CreateOptions{})
				return err
			})
		}},
		{"T6", "write events without end, to their other group", func(t *testing.T) attack.Outcome {
			return untilTooMany(t, func(ctx context.Context) error {
				_, err := alice.EventsV1().Events("a2").Create(ctx, newEvent(), metav1.CreateOptions{})
				return err
			})
		}},
	}
}

// untilTooMany repeats f until it comes too often.
func untilTooMany(t *testing.T, f func(context.Context) error) attack.Outcome {
	t.Helper()
	for written := range 2000 {
		err := f(t.Context())
		if apierrors.IsTooManyRequests(err) {
			t.Logf("%d events were written", written)
			return attack.Refused
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return attack.Succeeded
}

// untilRefused repeats f until the quota says no, and wants it to say so at bound.
func untilRefused(t *testing.T, bound int, f func(context.Context) error) attack.Outcome {
	t.Helper()
	for n := range bound + 1 {
		err := f(t.Context())
		switch {
		case err == nil:
		case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: nodeless-tenant"):
			if n < bound-5 { // a namespace has a few objects of the cluster's own
				t.Errorf("refused after %d, want %d: %v", n, bound, err)
			}
			return attack.Refused
		default:
			t.Fatalf("number %d: %v", n+1, err)
		}
	}
	return attack.Succeeded
}

func refusedBy(t *testing.T, err error, why string) attack.Outcome {
	t.Helper()
	if err == nil {
		return attack.Succeeded
	}
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), why) {
		t.Errorf("refused by %v, want %q", err, why)
	}
	return attack.Refused
}

// create makes objects of any kind in namespace a.
func (p *people) create(who string, resource schema.GroupVersionResource, kind string, spec map[string]any) func(context.Context) error {
	client := dynamic.NewForConfigOrDie(p.configs[who])
	return func(ctx context.Context) error {
		obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": resource.GroupVersion().String(), "kind": kind, "metadata": map[string]any{"generateName": "fill-"}}}
		if spec != nil {
			obj.Object["spec"] = spec
		}
		_, err := client.Resource(resource).Namespace("a").Create(ctx, obj, metav1.CreateOptions{})
		return err
	}
}

func event(message string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "fill-", Namespace: "a"}, InvolvedObject: corev1.ObjectReference{Namespace: "a", Kind: "Pod", Name: "x"},
		Reason: "Filling", Message: message, Type: corev1.EventTypeNormal,
	}
}

func newEvent() *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "fill-", Namespace: "a2"}, Regarding: corev1.ObjectReference{Namespace: "a2", Kind: "Pod", Name: "x"},
		EventTime: metav1.NowMicro(), ReportingController: "example.com/filler", ReportingInstance: "one", Action: "Fill", Reason: "Filling", Type: corev1.EventTypeNormal,
	}
}

// rewrite changes one large ConfigMap again and again, of which the database keeps for minutes what it was. The writer hears that it is
// too fast, and when to come again. The quota does not count what is refused then.
func (p *people) rewrite(t *testing.T, dir string) attack.Outcome {
	attack.Slow(t)
	const most = 200
	ctx, maps := t.Context(), p.clients["alice"].CoreV1().ConfigMaps("a2")
	cm, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Its own client would wait as it is told, and try again.
	send := func(r *rest.Request, cm *corev1.ConfigMap) error {
		return r.MaxRetries(0).Namespace("a2").Resource("configmaps").Body(cm).Do(ctx).Error()
	}
	direct := p.clients["alice"].CoreV1().RESTClient()
	end, began := attack.Succeeded, time.Now()
	for n := range most {
		cm.ResourceVersion, cm.Data = "", map[string]string{"x": strings.Repeat(string(rune('a'+n%26)), 1000<<10)}
		err := send(direct.Put().Name("large"), cm)
		if err != nil {
			tooFast(t, err)
			t.Logf("refused after %d", n)
			end = attack.Refused
			break
		}
	}
	before := p.counted(t, "a2")
	for i := range 5 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("fast-", i)}, Data: map[string]string{"x": strings.Repeat("x", 1000<<10)}}
		switch err := send(direct.Post(), cm); {
		case err == nil:
			before++
		default:
			tooFast(t, err)
		}
	}
	if after := p.counted(t, "a2"); after != before {
		t.Errorf("the quota counts %d ConfigMaps, want the %d that were made", after, before)
	}
	var size int64
	for _, name := range []string{"state.db", "state.db-wal"} {
		if info, err := os.Stat(filepath.Join(dir, "data", "server", "db", name)); err == nil {
			size += info.Size()
		}
	}
	t.Logf("the database has %d MiB after %s", size>>20, time.Since(began).Round(time.Millisecond))
	if _, err := p.clients["bob"].CoreV1().ConfigMaps("b").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "beside"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	return end
}

// counted is how many ConfigMaps the quota of a namespace counts.
func (p *people) counted(t *testing.T, namespace string) int64 {
	t.Helper()
	quota, err := p.admin.CoreV1().ResourceQuotas(namespace).Get(t.Context(), "nodeless-tenant", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used := quota.Status.Used["count/configmaps"]
	return used.Value()
}

// tooFast expects what one hears who has more written than the database takes.
func tooFast(t *testing.T, err error) {
	t.Helper()
	if seconds, known := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !known || seconds < 1 || !strings.Contains(err.Error(), "write less often") {
		t.Errorf("refused by %v (wait %d, %t), want a 429 that says when to try again and what to do", err, seconds, known)
	}
}

// identityAttacks would stay somebody for ever, or unseen.
func (p *people) identityAttacks(dir string) []attackRow {
	alice := p.clients["alice"]
	return []attackRow{
		{"T17", "ask for a token of ten years", func(t *testing.T) attack.Outcome {
			life := int64(10 * 365 * 24 * 3600)
			got, err := alice.CoreV1().ServiceAccounts("a").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &life}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.Status.ExpirationTimestamp.Time); left > 30*24*time.Hour {
				t.Errorf("the token is valid for %s", left)
			}
			return attack.Contained
		}},
		{"T17", "have a token that never expires", func(t *testing.T) attack.Outcome {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "for-ever", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken}
			_, err := alice.CoreV1().Secrets("a").Create(t.Context(), secret, metav1.CreateOptions{})
			end := refusedBy(t, err, "kubectl create token")
			if _, err := p.admin.CoreV1().Secrets("a").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				t.Errorf("an administrator: %v", err)
			}
			return end
		}},
		{"T17", "delete a Secret unseen", func(t *testing.T) attack.Outcome {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "seen"}, StringData: map[string]string{"key": "never-in-the-log"}}
			if _, err := alice.CoreV1().Secrets("a").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := alice.CoreV1().Secrets("a").Delete(t.Context(), "seen", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			return inAuditLog(t, filepath.Join(dir, "data", "server", "audit", "audit.log"))
		}},
		{"T21", "be let into another's namespace by mistake", func(t *testing.T) attack.Outcome {
			_, err := p.keeper.Create(t.Context(), users.Request{Name: "mallory", Namespaces: []string{"b"}, Life: time.Hour})
			if err == nil {
				return attack.Succeeded
			}
			if !strings.Contains(err.Error(), "is that of bob") {
				t.Errorf("refused by %v", err)
			}
			return attack.Refused
		}},
	}
}

// inAuditLog looks for what alice did to the Secret, and that nothing of its content is there.
func inAuditLog(t *testing.T, name string) attack.Outcome {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v, want mode 0600", name, info, err)
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.Contains(line, `"resource":"secrets"`) || !strings.Contains(line, "nodeless:user:alice:") {
			continue
		}
		for _, verb := range []string{"create", "delete"} {
			if strings.Contains(line, fmt.Sprintf("%q:%q", "verb", verb)) && (verb == "create" || strings.Contains(line, `"name":"seen"`)) {
				seen[verb] = true
			}
		}
	}
	if strings.Contains(string(text), "never-in-the-log") || strings.Contains(string(text), `"requestObject"`) || strings.Contains(string(text), `"responseObject"`) {
		t.Error("the log has what was in an object")
	}
	for _, noise := range []string{`"username":"nodeless:supervisor","groups":["system:masters","system:authenticated"]},"verb":"get"`, `"requestURI":"/readyz"`} {
		if n := strings.Count(string(text), noise); n > 0 {
			t.Errorf("the log has %d lines with %s", n, noise)
		}
	}
	t.Logf("%d bytes after %d lines", len(text), strings.Count(string(text), "\n"))
	if !seen["create"] || !seen["delete"] {
		return attack.Succeeded
	}
	return attack.Contained
}

// revokeAdministrator deletes the binding of the administrator's kubeconfig. It comes last.
func (p *people) revokeAdministrator(t *testing.T) attack.Outcome {
	p.add(t, users.Request{Name: "second", Admin: true, Life: time.Hour})
	eventually(t, "the rights of a second administrator", func(ctx context.Context) (bool, error) {
		_, err := p.clients["second"].CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return err == nil, err
	})
	if err := p.clients["second"].RbacV1().ClusterRoleBindings().Delete(t.Context(), "nodeless:administrator", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the administrator's rights", func(ctx context.Context) (bool, error) {
		_, err := p.admin.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return apierrors.IsForbidden(err), err
	})
	return attack.Refused
}

// replaceAdministrator has the server make the administrator another key, as docs/users.md says.
func (p *people) replaceAdministrator(t *testing.T, dir string) attack.Outcome {
	if err := os.Remove(filepath.Join(dir, "data", "server", "tls", "admin.key")); err != nil {
		t.Fatal(err)
	}
	server, stolen := startServer(t, dir), p.admin
	p.admin = server.ready(t, dir)
	eventually(t, "a refusal of the old kubeconfig", func(ctx context.Context) (bool, error) {
		_, err := stolen.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return apierrors.IsForbidden(err), err
	})
	server.stop(t)
	return attack.Refused
}

// flood has alice write as fast as she can, by many connections, while bob works.
func (p *people) flood(t *testing.T) {
	const writers, measured = 32, 400
	measure := func(ctx context.Context) []time.Duration {
		var took []time.Duration
		for range measured {
			began := time.Now()
			var cm *corev1.ConfigMap
			err := retry.RetryOnConflict(retry.DefaultRetry, func() (err error) { // the quota is counted down for what bob has deleted
				cm, err = p.clients["bob"].CoreV1().ConfigMaps("b").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "work-"}}, metav1.CreateOptions{})
				return err
			})
			took = append(took, time.Since(began))
			if err != nil {
				t.Errorf("bob, beside the flood: %v", err)
				return took
			}
			if err := p.clients["bob"].CoreV1().ConfigMaps("b").Delete(ctx, cm.Name, metav1.DeleteOptions{}); err != nil {
				t.Errorf("bob, beside the flood: %v", err)
				return took
			}
		}
		slices.Sort(took)
		return took
	}
	quiet := measure(t.Context())
	t.Logf("create of a ConfigMap without a flood: p50 %s, p99 %s", quiet[len(quiet)/2], quiet[len(quiet)*99/100])
	attack.Try(t, "T6", "flood the apiserver while another tenant works", func(t *testing.T) attack.Outcome {
		attack.Slow(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		answers := make(map[string]int) // guarded by mu
		for i := range writers {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := p.clients["alice"].CoreV1().Events("a").Create(ctx, event("flood"), metav1.CreateOptions{})
					if i%2 == 0 {
						_, err = p.clients["alice"].CoreV1().ConfigMaps("a").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "flood-"}, Data: map[string]string{"x": strings.Repeat("x", 900<<10)}}, metav1.CreateOptions{})
					}
					mu.Lock()
					answers[string(apierrors.ReasonForError(err))]++
					mu.Unlock()
				}
			})
		}
		busy := measure(ctx)
		cancel()
		wg.Wait()
		p99 := busy[len(busy)*99/100]
		t.Logf("beside a flood of %d connections: p50 %s, p99 %s; alice's answers: %v", writers, busy[len(busy)/2], p99, answers)
		if p99 > time.Second {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

func cronScalers() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "autoscaling.cloud.tencent.com", Version: "v1", Resource: "horizontalpodcronscalers"}
}

func cronScalerSpec() map[string]any {
	return map[string]any{
		"scaleTarget": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
		"crons":       []any{map[string]any{"name": "a", "schedule": "0 30 8 * * *", "targetSize": int64(1)}},
	}
}
