package testcluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testbed"
)

// Image is preloaded from the bundle: no registry is asked.
const Image = "docker.io/nodeless/hello:1"

// Space is a namespace of one test. Its methods end the test when something fails.
type Space struct {
	*Cluster
	T    *testing.T
	Ctx  context.Context
	Name string
}

// NewSpace makes a namespace named after the test. It goes at the test's end, with its Pods; everything in it has the
// time until timeout is over, by the host's clock.
func NewSpace(t *testing.T, c *Cluster, timeout time.Duration) *Space {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.Host.Patience(timeout))
	name := strings.ToLower(strings.NewReplacer("TestFault", "", "Test", "", "/", "-", "_", "-").Replace(t.Name()))
	s := &Space{Cluster: c, T: t, Ctx: ctx, Name: name}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			s.explain()
		}
		s.remove()
	})
	s.Kubectl("create", "namespace", s.Name)
	s.Until("service account", func() (bool, error) {
		_, err := s.Client.CoreV1().ServiceAccounts(s.Name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
	return s
}

// remove deletes the namespace and waits until its Pods are gone.
func (s *Space) remove() {
	if s.Ended() {
		return // the whole host goes
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.Host.Patience(2*time.Minute))
	defer cancel()
	if err := s.Client.CoreV1().Namespaces().Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
		if !apierrors.IsNotFound(err) {
			s.T.Errorf("delete namespace %s: %v", s.Name, err)
		}
		return
	}
	err := s.Server.Until(ctx, "namespace "+s.Name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := s.Client.CoreV1().Namespaces().Get(ctx, s.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	if err != nil {
		s.T.Error(err)
	}
}

// explain prints what one wants to know after a failure.
func (s *Space) explain() {
	s.T.Logf("server log:\n%s", s.Server.Tail(40))
	if s.Ended() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"get", "all", "-o", "wide"}} {
		out, err := s.Host.Kubectl(ctx, append([]string{"-n", s.Name}, args...)...)
		s.T.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Kubectl runs the product's kubectl in the namespace.
func (s *Space) Kubectl(args ...string) string {
	s.T.Helper()
	out, err := s.Host.Kubectl(s.Ctx, append([]string{"-n", s.Name}, args...)...)
	if err != nil {
		s.T.Fatal(err)
	}
	return out
}

// Exec runs a command in a Pod and returns what it printed and its exit code.
func (s *Space) Exec(pod string, command ...string) (string, int) {
	s.T.Helper()
	out, err := s.Host.Kubectl(s.Ctx, append([]string{"-n", s.Name, "exec", pod, "--"}, command...)...)
	var failed *testbed.CommandError
	if errors.As(err, &failed) {
		return out + failed.Stderr, failed.Code
	}
	if err != nil {
		s.T.Fatal(err)
	}
	return out, 0
}

// MustExec is Exec for commands that succeed; surrounding space is removed.
func (s *Space) MustExec(pod string, command ...string) string {
	s.T.Helper()
	out, code := s.Exec(pod, command...)
	if code != 0 {
		s.T.Fatalf("exec %q in %s: exit code %d\n%s", command, pod, code, out)
	}
	return strings.TrimSpace(out)
}

// Apply applies manifests; the image's name is put in for IMAGE.
func (s *Space) Apply(manifest string) {
	s.T.Helper()
	if out, code := s.TryApply(manifest); code != 0 {
		s.T.Fatalf("apply: exit code %d\n%s", code, out)
	}
}

// TryApply is Apply for manifests that may be refused: it returns what kubectl printed, warnings included, and its exit code.
func (s *Space) TryApply(manifest string) (string, int) {
	s.T.Helper()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(manifest, "IMAGE", Image))
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		s.T.Fatalf("apply: %v\n%s", err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Until polls; it ends the test when the time is up or the server has ended. The error of cond only matters for the
// message: it says what was seen instead.
func (s *Space) Until(what string, cond func() (bool, error)) {
	s.T.Helper()
	err := s.Server.Until(s.Ctx, what, func(context.Context) (bool, error) {
		ok, err := cond()
		if ok {
			err = nil
		}
		return ok, err
	})
	if err != nil {
		s.T.Fatal(err)
	}
}
