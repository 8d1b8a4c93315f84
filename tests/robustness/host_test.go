package robustness_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/tests/testbed"
)

// image is preloaded from the bundle: no registry is asked.
const image = "docker.io/nodeless/hello:1"

// startTimeout is how long a server may take from its start to a Ready node.
const startTimeout = 2 * time.Minute

// cluster is a server in a test host. Its server is replaced when a fault ends it.
type cluster struct {
	host   *testbed.Host
	flags  []string
	server *testbed.Server
	rest   *rest.Config
	client *kubernetes.Clientset
}

// start starts the server, the first or a next one, and waits for the Node and for what Pods need.
func (c *cluster) start(ctx context.Context) error {
	if err := c.launch(); err != nil {
		return err
	}
	return c.untilUsable(ctx)
}

// launch starts the server and waits for nothing.
func (c *cluster) launch() (err error) {
	c.server, err = c.host.StartServer(c.flags...)
	return err
}

// untilUsable waits until the server that was launched takes Pods, and connects to it.
func (c *cluster) untilUsable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.server.UntilNodeReady(ctx); err != nil {
		return err
	}
	if err := c.server.UntilOutput(ctx, "default", "get", "serviceaccount", "default", "-o", "jsonpath={.metadata.name}"); err != nil {
		return err
	}
	return c.connect()
}

// connect makes the clients. Their certificates stay valid over restarts of the server.
func (c *cluster) connect() (err error) {
	if c.rest, err = c.host.RESTConfig(); err != nil {
		return err
	}
	c.client, err = kubernetes.NewForConfig(c.rest)
	return err
}

// kill ends the server by SIGKILL and waits until it is dead.
func (c *cluster) kill(ctx context.Context) error {
	if err := c.server.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.server.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("kill server: still there: %w", err)
	}
	return nil
}

// ended tells whether the server has ended by itself or by a fault.
func (c *cluster) ended() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return c.server == nil || !errors.Is(c.server.Wait(ctx), context.Canceled)
}

func (c *cluster) close() error {
	var err error
	if !c.ended() {
		err = c.server.Stop()
	}
	return errors.Join(err, c.host.Close())
}

// space is a namespace of one test, removed at its end.
type space struct {
	*cluster
	t    *testing.T
	ctx  context.Context
	name string
}

func newSpace(t *testing.T, c *cluster, timeout time.Duration) *space {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	name := strings.ToLower(strings.NewReplacer("TestFault", "", "/", "-", "_", "-").Replace(t.Name()))
	s := &space{cluster: c, t: t, ctx: ctx, name: name}
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
	if s.ended() {
		return // the whole host goes
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := s.client.CoreV1().Namespaces().Delete(ctx, s.name, metav1.DeleteOptions{}); err != nil {
		if !apierrors.IsNotFound(err) {
			s.t.Errorf("delete namespace %s: %v", s.name, err)
		}
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
	s.t.Logf("server log:\n%s", s.server.Tail(40))
	if s.ended() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"get", "all", "-o", "wide"}} {
		out, err := s.host.Kubectl(ctx, append([]string{"-n", s.name}, args...)...)
		s.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
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
	cmd := s.host.Command(s.ctx, s.host.Program, "kubectl", "-n", s.name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(manifest, "IMAGE", image))
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
	s.until(fmt.Sprintf("%d Pods with %q are ready", n, label), func() (bool, error) {
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

// sleeper is a Pod that does nothing until it is told to go. extra is appended to its container.
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
func (c *cluster) processes(t *testing.T, text string) []int {
	t.Helper()
	all, err := c.host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for pid, line := range all {
		if strings.Contains(line, text) {
			pids = append(pids, pid)
		}
	}
	return pids
}
