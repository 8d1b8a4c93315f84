package vm_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

func TestNetwork(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(fmt.Sprintf(webDeployment, 2))
	s.Apply(strings.Replace(testcluster.Sleeper("client", ""), "metadata: {",
		`metadata: {annotations: {kubernetes.io/egress-bandwidth: 80M, kubernetes.io/ingress-bandwidth: 160M}, `, 1))
	web := s.Pods("app=web", 2)
	client := s.Ready("client")
	service, err := s.Client.CoreV1().Services(s.Name).Get(s.Ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("the Pod's address is the one of its status", func(t *testing.T) {
		if got := s.MustExec("client", "sh", "-c", "ip -4 -o addr show dev eth0 | awk '{print $4}'"); got != client.Status.PodIP+"/32" {
			t.Errorf("eth0 has %s, want %s/32", got, client.Status.PodIP)
		}
	})
	t.Run("the Pod has the bandwidth of its annotations", func(t *testing.T) {
		for set, want := range map[string]string{"capped_out": "over 10000000 bytes/second", "capped_in": "over 20000000 bytes/second"} {
			if got := elementOf(s.with(t), set, linkOf(s.with(t), client.Status.PodIP)); !strings.Contains(got, want) {
				t.Errorf("the Pod's element of %s is %q, want %q", set, got, want)
			}
		}
	})
	t.Run("Pod to Pod", func(t *testing.T) {
		s.MustExec("client", "/hello", "get", "http://"+web[0].Status.PodIP+":8080/")
	})
	t.Run("Pod to Service by name reaches both Pods", func(t *testing.T) {
		answers := map[string]bool{}
		s.Until("two Pods have answered", func() (bool, error) {
			out, code := s.Exec("client", "/hello", "get", "http://web/")
			if code != 0 {
				return false, fmt.Errorf("code %d: %s", code, out)
			}
			answers[out] = true
			return len(answers) == 2, fmt.Errorf("answers: %v", answers)
		})
	})
	t.Run("names", func(t *testing.T) {
		full := "web." + s.Name + ".svc.cluster.local"
		for _, name := range []string{"web", "web." + s.Name, full} {
			if got := s.MustExec("client", "/hello", "resolve", name); !strings.Contains(got, service.Spec.ClusterIP) {
				t.Errorf("%s is %q, want %s", name, got, service.Spec.ClusterIP)
			}
		}
		if out, code := s.Exec("client", "/hello", "resolve", "no-such-service"); code == 0 {
			t.Errorf("a name that is not there resolves to %q", out)
		}
	})
	t.Run("Pod to apiserver", func(t *testing.T) {
		out, code := s.Exec("client", "/hello", "get", "https://kubernetes.default.svc/version")
		if code != 0 || !strings.Contains(out, "gitVersion") {
			t.Errorf("GET /version: code %d, %s", code, out)
		}
	})
	t.Run("host to Pod and to Service", func(t *testing.T) {
		for _, url := range []string{"http://" + web[1].Status.PodIP + ":8080/", "http://" + service.Spec.ClusterIP + "/"} {
			if _, err := s.get(url); err != nil {
				t.Errorf("GET %s: %v", url, err)
			}
		}
	})
	t.Run("a node port at the host's addresses", func(t *testing.T) { nodePort(s.with(t)) })
	t.Run("a Pod reaches its own Service", func(t *testing.T) {
		s.Kubectl("scale", "deployment/web", "--replicas=1")
		left := s.Pods("app=web", 1)
		s.Until("the Service answers its own Pod", func() (bool, error) {
			out, code := s.Exec(left[0].Name, "/hello", "get", "http://web/")
			return code == 0, fmt.Errorf("code %d: %s", code, out)
		})
	})
}

const openServices = `
apiVersion: v1
kind: Service
metadata: {name: open}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: open-local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// nodePort asks Pods at the host's own addresses, from another host by an address that this one had not when its server started.
func nodePort(s *space) {
	s.T.Helper()
	s.OwnHost(s.T, "another host is joined to it")
	peer, err := testbed.New(testbed.Options{Program: s.Host.Program})
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() {
		if err := peer.Close(); err != nil {
			s.T.Error(err)
		}
	})
	if err := s.Host.Link(peer, "10.43.0.0/16"); err != nil {
		s.T.Fatal(err)
	}
	s.Apply(openServices)
	for _, tt := range []struct {
		name string
		sees *regexp.Regexp
	}{
		{"open", regexp.MustCompile(`/from-open from (10\.99\.0\.2|10\.98\.0\.1|10\.42\.0\.1):`)}, // any address of the host
		{"open-local", regexp.MustCompile(`/from-open-local from 10\.98\.0\.2:`)},
	} {
		service, err := s.Client.CoreV1().Services(s.Name).Get(s.Ctx, tt.name, metav1.GetOptions{})
		if err != nil {
			s.T.Fatal(err)
		}
		port := service.Spec.Ports[0].NodePort
		url := func(addr string) string { return fmt.Sprintf("http://%s:%d/from-%s", addr, port, tt.name) }
		s.Until("another host reaches "+tt.name, func() (bool, error) {
			_, err := getFrom(s.Ctx, peer, url(testbed.LinkIP))
			return err == nil, err
		})
		if log := s.Kubectl("logs", "-l", "app=web", "--tail=-1"); !tt.sees.MatchString(log) {
			s.T.Errorf("no Pod has seen %s:\n%s", tt.sees, log)
		}
		for _, addr := range []string{testbed.NodeIP, testbed.LinkIP, "10.42.0.1"} {
			if _, err := s.get(url(addr)); err != nil {
				s.T.Errorf("the host asks %s at %s: %v", tt.name, addr, err)
			}
			if out, code := s.Exec("client", "/hello", "get", url(addr)); code != 0 {
				s.T.Errorf("a Pod asks %s at %s: code %d: %s", tt.name, addr, code, out)
			}
		}
		if _, err := getFrom(s.Ctx, peer, "http://"+service.Spec.ClusterIP+"/"); err == nil {
			s.T.Errorf("another host reaches the ClusterIP of %s", tt.name)
		}
	}
	for port, open := range map[string]bool{"6443": true, "10250": false} {
		if out, code := s.Exec("client", "nc", "-w", "2", testbed.NodeIP, port, "-e", "true"); (code == 0) != open {
			s.T.Errorf("a Pod connects to the host's port %s: code %d, %s; want it open: %t", port, code, out, open)
		}
	}
}

// linkOf is the host's end of the link of the Pod that has an address.
func linkOf(s *space, addr string) string {
	s.T.Helper()
	for _, e := range elements(s, "source") {
		if strings.HasSuffix(e, " . "+addr) {
			link, _, _ := strings.Cut(e, " ")
			return link
		}
	}
	s.T.Fatalf("no link may send from %s", addr)
	return ""
}

// elementOf is what a set of the host's packet rules says of a link; empty if nothing.
func elementOf(s *space, set, link string) string {
	s.T.Helper()
	for _, e := range elements(s, set) {
		if strings.HasPrefix(e, link+" ") {
			return e
		}
	}
	return ""
}

func elements(s *space, set string) (list []string) {
	s.T.Helper()
	nft := filepath.Join(filepath.Dir(s.Host.Program), "..", "aux", "nft")
	out, err := s.Host.Exec(s.Ctx, nft, "list", "set", "inet", "nodeless", set)
	if err != nil {
		s.T.Fatal(err)
	}
	_, out, _ = strings.Cut(out, "elements = {")
	out, _, _ = strings.Cut(out, "}")
	for e := range strings.SplitSeq(out, ",") {
		list = append(list, strings.TrimSpace(strings.ReplaceAll(e, `"`, "")))
	}
	return list
}
