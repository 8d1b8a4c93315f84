package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server"
	"github.com/nodeless/nodeless/pkg/server/credentials"
)

// process is a server of its own.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	began  time.Time
}

func startServer(t *testing.T, dir string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), began: time.Now()}
	p.cmd.Env = append(append(os.Environ(), serverEnv+"="+dir), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("server %d:\n%s", p.cmd.Process.Pid, p.output.String())
		}
	})
	return p
}

// stop asks the server to end and expects it to do so without a fault.
func (p *process) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("server ended with %v", err)
	}
	t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
}

func (p *process) rss(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(regexp.MustCompile(`(VmRSS|RssAnon):\s+\d+ kB`).FindAllString(string(status), -1), " ")
}

// ready waits for readyz and gives a client with the administrator's kubeconfig.
func (p *process) ready(t *testing.T, dir string) kubernetes.Interface {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var client *kubernetes.Clientset
	err := kube.Wait(ctx, "readyz", func(ctx context.Context) (bool, error) {
		cfg, err := kube.FromKubeconfig(filepath.Join(dir, "kubeconfig"))
		if err != nil {
			return false, err
		}
		cfg.QPS, cfg.Burst = 1000, 1000
		if client, err = kubernetes.NewForConfig(cfg); err != nil {
			return false, err
		}
		body, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if string(body) != "ok" {
			return false, err
		}
		_, err = client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}) // the administrator's right comes with the built-in objects
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("readyz after %s, %s", time.Since(p.began).Round(time.Millisecond), p.rss(t))
	return client
}

func eventually(t *testing.T, what string, done func(context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := kube.Wait(ctx, what, done); err != nil {
		t.Fatal(err)
	}
}

func TestControlPlane(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	dir := t.TempDir()
	first := startServer(t, dir)
	client := first.ready(t, dir)
	createObjects(t, client)
	expectPendingPods(t, client)
	expectResolves(t)
	expectAnonymousSeesHealthOnly(t)
	expectSealed(t, filepath.Join(dir, "data", "server", "db"))
	expectMetricsWithoutFigures(t, client)
	expectWorkloadOfOtherKinds(t, client)
	expectScalingIsWarnedOf(t, filepath.Join(dir, "kubeconfig"))
	expectAutoscales(t, client)
	expectReloads(t, dir)
	expectRestored(t, dir)
	measureIdle(t, first)
	admin, err := os.ReadFile(filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	first.stop(t)
	expectRestoredOnce(t, first.output.String())

	second := startServer(t, dir)
	client = second.ready(t, dir)
	if again, _ := os.ReadFile(filepath.Join(dir, "kubeconfig")); !bytes.Equal(again, admin) {
		t.Error("the restart changed the administrator's kubeconfig")
	}
	secret, err := client.CoreV1().Secrets("default").Get(t.Context(), "sealed", metav1.GetOptions{})
	if err != nil || string(secret.Data["key"]) != secretMarker {
		t.Errorf("after a restart the Secret is %v, %v", secret, err)
	}
	expectPendingPods(t, client)
	expectResolves(t)

	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.cmd.Wait()
	log := filepath.Join(dir, "data", "server", "audit", "audit.log")
	before, err := os.Stat(log)
	if err != nil {
		t.Fatal(err)
	}
	third := startServer(t, dir, noMetricsEnv+"=1", noAuditEnv+"=1")
	client = third.ready(t, dir)
	expectPendingPods(t, client)
	expectNoMetrics(t, client)
	if after, err := os.Stat(log); err != nil || after.Size() != before.Size() {
		t.Errorf("with the audit log turned off it grew from %d to %v, %v", before.Size(), after, err)
	}
	third.stop(t)
}

const (
	secretMarker = "this-must-not-be-on-disk"
	openMarker   = "this-may-be-on-disk"
)

func createObjects(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	ctx := t.Context()
	_, err := client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sealed"}, Data: map[string][]byte{"key": []byte(secretMarker)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "open"}, Data: map[string]string{"key": openMarker}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	replicas, labels := int32(2), map[string]string{"app": "web"}
	_, err = client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "docker.io/nodeless/hello:1"}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// expectPendingPods sees the controllers make the Pods and the scheduler judge them: there is no node.
func expectPendingPods(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	eventually(t, "two Pods that the scheduler has looked at", func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(pods.Items) != 2 {
			return false, err
		}
		for _, p := range pods.Items {
			if p.Status.Phase != corev1.PodPending || len(p.Status.Conditions) == 0 || p.Status.Conditions[0].Reason != corev1.PodReasonUnschedulable {
				return false, fmt.Errorf("Pod %s: %s %v", p.Name, p.Status.Phase, p.Status.Conditions)
			}
		}
		return true, nil
	})
}

func expectResolves(t *testing.T) {
	t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, "10.42.0.1:53")
	}}
	for name, want := range map[string]string{"kubernetes.default.svc.cluster.local.": "10.43.0.1", "kube-dns.kube-system.svc.cluster.local.": "10.43.0.10"} {
		eventually(t, "resolving "+name, func(ctx context.Context) (bool, error) {
			got, err := resolver.LookupHost(ctx, name)
			return len(got) == 1 && got[0] == want, err
		})
	}
	began := time.Now()
	_, err := resolver.LookupHost(t.Context(), "example.com.")
	if dnsErr, ok := err.(*net.DNSError); !ok || !dnsErr.IsNotFound || time.Since(began) > time.Second {
		t.Errorf("a name outside, without a way out: %v after %s, want a denial at once", err, time.Since(began))
	}
}

// expectMetricsWithoutFigures: without a node nothing is ever measured. The API is there all the same, says why it has no
// figures, and is in nobody's way: discovery is whole, and a namespace goes.
func expectMetricsWithoutFigures(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	eventually(t, "discovery of metrics.k8s.io", func(context.Context) (bool, error) {
		groups, err := client.Discovery().ServerGroups()
		if err != nil {
			return false, err
		}
		for _, g := range groups.Groups {
			if g.Name == "metrics.k8s.io" {
				return len(g.Versions) == 2, fmt.Errorf("its versions are %v", g.Versions)
			}
		}
		return false, errors.New("it is not among the groups")
	})
	if _, _, err := client.Discovery().ServerGroupsAndResources(); err != nil {
		t.Errorf("discovery: %v", err)
	}
	err := client.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").Do(t.Context()).Error()
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "measured") {
		t.Errorf("figures of nodes: %v, want the service unavailable and why", err)
	}
	namespaces := client.CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "goes"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of a namespace", func(ctx context.Context) (bool, error) {
		ns, err := namespaces.Get(ctx, "goes", metav1.GetOptions{})
		if err == nil {
			return false, fmt.Errorf("its conditions are %v", ns.Status.Conditions)
		}
		return apierrors.IsNotFound(err), err
	})
}

// expectNoMetrics: a server that is told to leave the API out takes back what an earlier one has registered.
func expectNoMetrics(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for _, path := range []string{"/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io", "/apis/metrics.k8s.io/v1beta1", "/apis/metrics.k8s.io/v1"} {
		eventually(t, "the end of "+path, func(ctx context.Context) (bool, error) {
			_, err := client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
			return apierrors.IsNotFound(err), err
		})
	}
	if _, _, err := client.Discovery().ServerGroupsAndResources(); err != nil {
		t.Errorf("discovery: %v", err)
	}
}

func expectAnonymousSeesHealthOnly(t *testing.T) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for path, want := range map[string]int{"/readyz": 200, "/livez": 200, "/api": 401, "/version": 401, "/metrics": 401, "/debug/pprof/": 401} {
		resp, err := client.Get("https://127.0.0.1:6443" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s without a certificate: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// expectSealed looks for the Secret in every file of the database. That the ConfigMap is found shows that looking works.
func expectSealed(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no database in %s: %v", dir, err)
	}
	open := false
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(secretMarker)) {
			t.Errorf("the Secret can be read in %s", file)
		}
		open = open || bytes.Contains(data, []byte(openMarker))
	}
	if !open {
		t.Errorf("the ConfigMap is in none of %v", files)
	}
}

// expectReloads has the serving certificate re-issued as the renewer does it and sees the running server show it.
func expectReloads(t *testing.T, dir string) {
	t.Helper()
	const san = "renewed.example.com"
	cfg := credentialsConfig(testConfig(dir))
	cfg.TLSSANs = []string{san}
	cred, err := credentials.Prepare(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(cred.CAFile(pki.ServerCA))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	eventually(t, "the new serving certificate", func(ctx context.Context) (bool, error) {
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: san}}
		conn, err := dialer.DialContext(ctx, "tcp", "127.0.0.1:6443")
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
}

// credentialsConfig is what the server makes of cfg for its credentials.
func credentialsConfig(cfg server.Config) credentials.Config {
	return credentials.Config{
		TLSDir: cfg.Data.TLS(), AgentTLSDir: cfg.Data.AgentTLS(), CredDir: cfg.Data.Cred(), AdminFile: cfg.Kubeconfig,
		NodeName: cfg.NodeName, NodeIPs: []netip.Addr{cfg.NodeIP}, ServiceIP: netip.MustParseAddr("10.43.0.1"),
		ClusterDomain: cfg.Domain, BindAddress: cfg.Bind, Port: cfg.Port,
	}
}

func TestPortInUse(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	taken, err := net.Listen("tcp", "0.0.0.0:6443")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := startServer(t, t.TempDir())
	err = p.cmd.Wait()
	out := p.output.String()
	if err == nil || !strings.Contains(out, "apiserver: listen on 0.0.0.0:6443: ") || !strings.Contains(out, "hint: stop the program that has the port") {
		t.Errorf("ended with %v and:\n%s", err, out)
	}
}

func TestDataDirNotWritable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, dir)
	err := p.cmd.Wait()
	if out := p.output.String(); err == nil || !strings.Contains(out, "--data-dir") {
		t.Errorf("ended with %v and:\n%s", err, out)
	}
}
