package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/pkg/server/apiserver/guard/defaults"
	"github.com/nodeless/nodeless/pkg/users"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackRequests tries what requests do beside the objects that they are about.
func TestAttackRequests(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	dir := t.TempDir()
	server := startServer(t, dir)
	p := newPeople(t, server, dir)
	p.add(t, users.Request{Name: "alice", Namespaces: []string{"a", "a2"}, Life: time.Hour})
	p.add(t, users.Request{Name: "bob", Namespaces: []string{"b"}, Life: time.Hour})
	p.add(t, users.Request{Name: "olga", Operator: true, Life: time.Hour})
	attack.Try(t, "T6", "watch without end", func(t *testing.T) attack.Outcome { return p.watchAll(t, server) })
	attack.Try(t, "T6", "watch without end, as many ServiceAccounts", p.watchAsMany)
	p.attackProxies(t)
	attack.Try(t, "T6", "fill the host's packet rules by many Services of many ports", p.manyPorts)
	attack.Try(t, "T17", "go on with a copy of an old administrator's certificate", func(t *testing.T) attack.Outcome { return p.oldMaster(t, dir) })
	attack.Try(t, "T17", "read secrets of requests in the audit log", func(t *testing.T) attack.Outcome { return p.secretsInLog(t, dir) })
	attack.Try(t, "T9", "run outside of a microVM when the class of microVMs has been deleted", p.withoutClass)
	server.stop(t)
}

// manyPorts makes Services of as many ports as one may have.
func (p *people) manyPorts(t *testing.T) attack.Outcome {
	for n := range 50 {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("ports-", n)}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}
		for i := range 100 {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(1000 + i)})
		}
		_, err := p.clients["alice"].CoreV1().Services("a").Create(t.Context(), svc, metav1.CreateOptions{})
		if err == nil {
			continue
		}
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "ports together") || n < 5 {
			t.Errorf("after %d Services refused by %v", n, err)
		}
		t.Logf("%d Services were made", n)
		if n > 10 { // what is made in the same moment is not known yet
			break
		}
		return attack.Refused
	}
	return attack.Succeeded
}

// withoutClass has an administrator delete by mistake what says that Pods are microVMs.
func (p *people) withoutClass(t *testing.T) attack.Outcome {
	ctx := t.Context()
	if err := p.admin.NodeV1().RuntimeClasses().Delete(ctx, "kata", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var err error
	eventually(t, "a refusal of Pods", func(ctx context.Context) (bool, error) {
		_, err = p.clients["alice"].CoreV1().Pods("a").Create(ctx, simplePod("classless"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, err
	})
	return refusedBy(t, err, `RuntimeClass "kata" not found`)
}

// open begins a watch and says whether it may.
func open(ctx context.Context, client kubernetes.Interface, namespace string) (watch.Interface, error) {
	// A client waits and tries again by itself when it is told to.
	return client.CoreV1().RESTClient().Get().MaxRetries(0).Namespace(namespace).Resource("configmaps").VersionedParams(&metav1.ListOptions{Watch: true}, scheme.ParameterCodec).Watch(ctx)
}

// openUntilRefused begins so many watches, or fewer when it is refused.
func openUntilRefused(ctx context.Context, t *testing.T, client kubernetes.Interface, namespace string, most int) (n int) {
	t.Helper()
	for n = range most {
		w, err := open(ctx, client, namespace)
		if apierrors.IsTooManyRequests(err) {
			if seconds, known := apierrors.SuggestsClientDelay(err); !known || seconds < 1 || !strings.Contains(err.Error(), "end some of them") {
				t.Errorf("refused by %v, want words on what to do and when to try again", err)
			}
			return n
		}
		if err != nil {
			t.Fatalf("watch %d: %v", n+1, err)
		}
		context.AfterFunc(ctx, w.Stop)
	}
	return most
}

// watchAll has alice open watches while bob works; an operator and bob have theirs all the same.
func (p *people) watchAll(t *testing.T, server *process) attack.Outcome {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := server.rss(t)
	tries := defaults.Requests + 20
	opened := openUntilRefused(ctx, t, p.clients["alice"], "a", tries)
	t.Logf("%d watches: %s, and %s before", opened, server.rss(t), before)
	var took []time.Duration
	for range 200 {
		began := time.Now()
		if _, err := p.clients["bob"].CoreV1().ConfigMaps("b").List(ctx, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("another tenant's requests: p50 %s, p99 %s", took[len(took)/2], p99)
	if w, err := open(ctx, p.clients["bob"], "b"); err != nil {
		t.Errorf("another tenant's watch: %v", err)
	} else {
		w.Stop()
	}
	if n := openUntilRefused(ctx, t, p.clients["olga"], metav1.NamespaceAll, tries); n != tries {
		t.Errorf("an operator has %d watches, want no bound", n)
	}
	cancel()
	eventually(t, "a watch after the others ended", func(ctx context.Context) (bool, error) {
		w, err := open(ctx, p.clients["alice"], "a")
		if err == nil {
			w.Stop()
		}
		return err == nil, err
	})
	if opened == tries || p99 > time.Second {
		return attack.Succeeded
	}
	return attack.Refused
}

// watchAsMany has two ServiceAccounts of alice's share what she may have.
func (p *people) watchAsMany(t *testing.T) attack.Outcome {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	alice, sum, tries := p.clients["alice"], 0, defaults.Requests*2/3
	for _, name := range []string{"one", "two"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := alice.CoreV1().ServiceAccounts("a").Create(ctx, account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "watches"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "a", Name: name}}}
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "watches"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}}}}
		if _, err := alice.RbacV1().Roles("a").Create(ctx, role, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		if _, err := alice.RbacV1().RoleBindings("a").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		token, err := alice.CoreV1().ServiceAccounts("a").CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cfg := rest.AnonymousClientConfig(p.configs["alice"])
		cfg.BearerToken, cfg.QPS = token.Status.Token, -1
		client := kubernetes.NewForConfigOrDie(cfg)
		eventually(t, "the rights of "+name, func(ctx context.Context) (bool, error) {
			_, err := client.CoreV1().ConfigMaps("a").List(ctx, metav1.ListOptions{})
			return err == nil, err
		})
		sum += openUntilRefused(ctx, t, client, "a", tries)
	}
	if sum > defaults.Requests {
		return attack.Succeeded
	}
	return attack.Refused
}

// attackProxies has the apiserver call others than Pods of alice's in a microVM. An operator has put a Pod with the host's network into
// her namespace.
func (p *people) attackProxies(t *testing.T) {
	ctx, alice := t.Context(), p.clients["alice"]
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Handler: "bare"}
	if _, err := p.admin.NodeV1().RuntimeClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reached := make(chan string, 10)
	listener, err := net.Listen("tcp", "10.42.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- r.URL.Path
		_, _ = io.WriteString(w, "here")
	})}
	go func() { _ = backend.Serve(listener) }()
	t.Cleanup(func() { _ = backend.Close() })
	port := listener.Addr().(*net.TCPAddr).Port

	place := func(name, ip string, change func(*corev1.Pod)) {
		t.Helper()
		pod := simplePod(name)
		change(pod)
		if _, err := p.admin.CoreV1().Pods("a2").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		status := fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}]}}`, ip, ip)
		if _, err := p.admin.CoreV1().Pods("a2").Patch(ctx, name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "p", Port: 80, TargetPort: intstr.FromInt(port)}}}}
		if _, err := alice.CoreV1().Services("a2").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ready, portName, number := true, "p", int32(port)
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &number}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "a2", Name: name}}},
		}
		if _, err := p.admin.DiscoveryV1().EndpointSlices("a2").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	place("guest", "10.42.0.1", func(*corev1.Pod) {})
	get := func(client kubernetes.Interface, path string) error {
		return raw(client, http.MethodGet, "/api/v1/namespaces/a2/"+path)(ctx)
	}
	for _, path := range []string{fmt.Sprintf("pods/guest:%d/proxy/x", port), "services/guest:p/proxy/x"} {
		eventually(t, path, func(context.Context) (bool, error) { err := get(alice, path); return err == nil, err })
		if got := <-reached; got != "/x" {
			t.Errorf("%s reached %s", path, got)
		}
	}
	bare, sized := "bare", corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		sized[name] = resource.MustParse("1")
	}
	place("hosts", "10.99.0.1", func(pod *corev1.Pod) {
		pod.Spec.RuntimeClassName, pod.Spec.HostNetwork, pod.Spec.Containers[0].Resources.Limits = &bare, true, sized
	})
	place("theirs", "10.42.0.1", func(pod *corev1.Pod) {
		pod.Spec.RuntimeClassName, pod.Spec.Containers[0].Resources.Limits = &bare, sized
	})
	if err := p.admin.CoreV1().Pods("a2").Delete(ctx, "guest", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"hosts", "theirs"} {
		attack.Try(t, "T9", "have the apiserver call a Pod outside of a microVM by a Service, "+to, func(t *testing.T) attack.Outcome {
			var err error
			eventually(t, "endpoints of "+to, func(context.Context) (bool, error) {
				err = get(alice, "services/"+to+":p/proxy/")
				return err == nil || !strings.Contains(err.Error(), "no endpoints available"), err
			})
			if err == nil || !strings.Contains(err.Error(), "the Pod is no microVM") || len(reached) > 0 {
				t.Logf("answered with %v", err)
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
	if err := get(p.admin, "services/theirs:p/proxy/y"); err != nil {
		t.Errorf("an administrator: %v", err)
	} else if got := <-reached; got != "/y" {
		t.Errorf("an administrator reached %s", got)
	}
}

// oldMaster shows a certificate as administrators' kubeconfigs once had, and one that says it is the server's own.
func (p *people) oldMaster(t *testing.T, dir string) attack.Outcome {
	tlsDir := filepath.Join(dir, "data", "server", "tls")
	ca, err := tls.LoadX509KeyPair(filepath.Join(tlsDir, "client-ca.crt"), filepath.Join(tlsDir, "client-ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	end := attack.Refused
	for _, tt := range []struct {
		name string
		life time.Duration
		in   bool
	}{{"nodeless:admin", 365 * 24 * time.Hour, false}, {"nodeless:supervisor", 365 * 24 * time.Hour, false}, {"nodeless:admin", time.Hour, false}, {"nodeless:supervisor", time.Hour, true}} {
		cfg := rest.AnonymousClientConfig(p.configs["alice"])
		cfg.CertData, cfg.KeyData = masterCert(t, ca, tt.name, tt.life)
		_, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		switch {
		case tt.in && err != nil:
			t.Errorf("%s for %s: %v", tt.name, tt.life, err)
		case !tt.in && err == nil:
			t.Logf("%s for %s reads all Secrets", tt.name, tt.life)
			end = attack.Succeeded
		case !tt.in && !apierrors.IsForbidden(err):
			t.Errorf("%s for %s is refused by %v", tt.name, tt.life, err)
		}
	}
	return end
}

func masterCert(t *testing.T, ca tls.Certificate, name string, life time.Duration) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, private.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// secretsInLog sends requests with secrets in their addresses.
func (p *people) secretsInLog(t *testing.T, dir string) attack.Outcome {
	const secret = "hunter2"
	var all sync.WaitGroup
	for _, path := range []string{
		"pods/there/exec?command=mysql&command=-p" + secret, "pods/there/attach?command=" + "x&command=" + secret,
		"pods/there/proxy/" + secret + "?token=" + secret, "services/there/proxy/hooks/" + secret, "pods/there/pro%78y/" + secret, "services/there/proxy?" + secret,
	} {
		all.Go(func() { _ = raw(p.clients["alice"], http.MethodGet, "/api/v1/namespaces/a/"+path)(t.Context()) })
	}
	all.Wait()
	text, err := os.ReadFile(filepath.Join(dir, "data", "server", "audit", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "pods/there/exec?command=mysql") || !strings.Contains(string(text), `"subresource":"proxy"`) {
		t.Error("the log does not tell of the requests")
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.Contains(line, secret) {
			t.Log(line)
			return attack.Succeeded
		}
	}
	return attack.Contained
}
