package vm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testbed"
)

// image is preloaded from the bundle: no registry is asked.
const image = "docker.io/nodeless/hello:1"

// space is a namespace of one test, with its Pods gone at the end.
type space struct {
	t    *testing.T
	ctx  context.Context
	name string
	*cluster
}

func newSpace(t *testing.T, timeout time.Duration) *space {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	s := &space{t: t, ctx: ctx, name: strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-")), cluster: shared}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			s.explain()
		}
		s.remove()
	})
	s.kubectl("create", "namespace", s.name)
	s.until("service account", func() (bool, error) {
		_, err := s.client.CoreV1().ServiceAccounts(s.name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
	return s
}

// remove deletes the namespace and waits until its Pods are gone.
func (s *space) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := s.client.CoreV1().Namespaces().Delete(ctx, s.name, metav1.DeleteOptions{}); err != nil {
		s.t.Errorf("delete namespace %s: %v", s.name, err)
		return
	}
	err := s.server.Until(ctx, "namespace "+s.name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := s.client.CoreV1().Namespaces().Get(ctx, s.name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		s.t.Error(err)
	}
}

// explain prints what one wants to know after a failure.
func (s *space) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"get", "all", "-o", "wide"}} {
		out, err := s.host.Kubectl(ctx, append([]string{"-n", s.name}, args...)...)
		s.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	s.t.Logf("server log:\n%s", s.server.Tail(40))
}

// kubectl runs the product's kubectl in the namespace and fails the test if it does.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.host.Kubectl(s.ctx, append([]string{"-n", s.name}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// exec runs a command in a Pod and returns what it printed and its exit code.
func (s *space) exec(pod string, command ...string) (string, int) {
	s.t.Helper()
	out, err := s.host.Kubectl(s.ctx, append([]string{"-n", s.name, "exec", pod, "--"}, command...)...)
	var failed *testbed.CommandError
	if errors.As(err, &failed) {
		return out + failed.Stderr, failed.Code
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return out, 0
}

// mustExec is exec for commands that succeed; surrounding space is removed.
func (s *space) mustExec(pod string, command ...string) string {
	s.t.Helper()
	out, code := s.exec(pod, command...)
	if code != 0 {
		s.t.Fatalf("exec %q in %s: exit code %d\n%s", command, pod, code, out)
	}
	return strings.TrimSpace(out)
}

// apply applies manifests; the image's name is put in for IMAGE.
func (s *space) apply(manifest string) {
	s.t.Helper()
	manifest = strings.ReplaceAll(manifest, "IMAGE", image)
	cmd := s.host.Command(s.ctx, s.host.Program, "kubectl", "-n", s.name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("apply: %v\n%s", err, out)
	}
}

// until polls; it ends the test when the time is up or the server has ended. The error of cond only matters for the
// message: it says what was seen instead.
func (s *space) until(what string, cond func() (bool, error)) {
	s.t.Helper()
	err := s.server.Until(s.ctx, what, func(context.Context) (bool, error) {
		ok, err := cond()
		if ok {
			err = nil
		}
		return ok, err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// pod waits until the named Pod is as wanted.
func (s *space) pod(name, what string, want func(*corev1.Pod) bool) *corev1.Pod {
	s.t.Helper()
	var got *corev1.Pod
	s.until("Pod "+name+" "+what, func() (bool, error) {
		pod, err := s.client.CoreV1().Pods(s.name).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		got = pod
		return want(pod), fmt.Errorf("it is %s, containers %v", pod.Status.Phase, states(pod))
	})
	return got
}

// ready waits until the named Pod is Ready.
func (s *space) ready(name string) *corev1.Pod {
	s.t.Helper()
	return s.pod(name, "is ready", isReady)
}

// pods waits until exactly n Pods with the label are ready and no other is there.
func (s *space) pods(label string, n int) []corev1.Pod {
	s.t.Helper()
	var got []corev1.Pod
	s.until(fmt.Sprintf("%d Pods with %s are ready", n, label), func() (bool, error) {
		list, err := s.client.CoreV1().Pods(s.name).List(s.ctx, metav1.ListOptions{LabelSelector: label})
		if err != nil {
			return false, err
		}
		ready := 0
		for i := range list.Items {
			if isReady(&list.Items[i]) && list.Items[i].DeletionTimestamp == nil {
				ready++
			}
		}
		got = list.Items
		return ready == n && len(list.Items) == n, fmt.Errorf("there are %d, %d ready", len(list.Items), ready)
	})
	return got
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// states is a short account of a Pod's containers for messages.
func states(pod *corev1.Pod) []string {
	var out []string
	for _, c := range pod.Status.ContainerStatuses {
		switch st := c.State; {
		case st.Running != nil:
			out = append(out, fmt.Sprintf("%s running, %d restarts", c.Name, c.RestartCount))
		case st.Terminated != nil:
			out = append(out, fmt.Sprintf("%s ended with %d (%s)", c.Name, st.Terminated.ExitCode, st.Terminated.Reason))
		case st.Waiting != nil:
			out = append(out, fmt.Sprintf("%s waits: %s %s", c.Name, st.Waiting.Reason, st.Waiting.Message))
		}
	}
	return out
}

// get asks a URL from the host, as a program of the host would.
func (s *space) get(url string) (string, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return s.host.Dial(ctx, network, addr)
	}}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", res.Status)
	}
	return string(body), err
}

// sleeper is a Pod that does nothing until it is told to go.
func sleeper(name, extra string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
%s`, name, extra)
}

// processes gives the machine's pids of the host's processes whose command line has the text.
func (s *space) processes(text string) []int {
	s.t.Helper()
	all, err := s.host.Processes()
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for pid, line := range all {
		if strings.Contains(line, text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func splitLines(text string) []string {
	return strings.Split(strings.TrimSpace(text), "\n")
}
