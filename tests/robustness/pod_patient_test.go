package robustness_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// Bounds that the tests of this file and its siblings hold the product to.
const (
	// noticed is how long a Pod may look healthy after a process of its microVM has died: Kata looks every five seconds,
	// on a machine that has time for it.
	noticed = time.Minute
	// hangNoticed is the same for a microVM that lives and does not answer: Kata asks the agent every five seconds and
	// waits thirty for the answer.
	hangNoticed = 90 * time.Second
	// replaced is how long it may take until a Pod whose microVM died runs again.
	replaced = 3 * time.Minute
	// deleted is how long it may take to delete a Pod whatever has happened to it.
	deleted = 2 * time.Minute
	// swept is when nothing of a Pod may be left: the kubelet looks for dead sandboxes once a minute, and what nobody
	// cleans up because that was killed too is removed by the server at its second look, a minute later.
	swept = 3 * time.Minute
)

// dice gives the random choices of a test. The seed is printed, and NODELESS_SEED sets it.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("NODELESS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("NODELESS_SEED: %v", err)
		}
	}
	t.Logf("seed: NODELESS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// full skips what takes too long for each change.
func full(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skipf("skipped: not with -short; `make robustness FAULT=%s` runs it", strings.TrimPrefix(t.Name(), "TestFault"))
	}
}

// pause waits for a random moment within most, or a given one.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// The processes of a Pod on the host, by a part of their command line.
const (
	shim      = "containerd-shim-kata"
	vmm       = "nodeless-vmm"
	qemu      = "qemu-system"
	virtiofsd = "virtiofsd"
)

// patient is a Pod that something happens to.
type patient struct {
	*space
	pod  string
	old  map[int]string // processes that were there before it
	made time.Time
}

// admit makes a Pod from a manifest and returns at once.
func (s *space) admit(pod, manifest string) *patient {
	s.T.Helper()
	old, err := s.Host.Processes()
	if err != nil {
		s.T.Fatal(err)
	}
	p := &patient{space: s, pod: pod, old: old, made: time.Now()}
	s.Apply(manifest)
	return p
}

// own lists the Pod's processes of a kind, provided that no other Pod was made since.
func (p *patient) own(kind string) []int {
	p.T.Helper()
	var pids []int
	for _, pid := range p.Processes(p.T, kind) {
		if _, other := p.old[pid]; !other {
			pids = append(pids, pid)
		}
	}
	return pids
}

// await waits until the Pod has a process of that kind.
func (p *patient) await(kind string) []int {
	p.T.Helper()
	var pids []int
	for end := time.Now().Add(time.Minute); len(pids) == 0; {
		pids = p.own(kind)
		if time.Now().After(end) || p.Ctx.Err() != nil {
			p.T.Fatalf("Pod %s: there is no %s after a minute", p.pod, kind)
		}
		pause(p.Ctx, 3*time.Millisecond)
	}
	return pids
}

// signal sends a signal to all processes of a kind and tells to how many.
func (p *patient) signal(kind string, sig syscall.Signal) int {
	p.T.Helper()
	pids := p.own(kind)
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			p.T.Fatal(err)
		}
	}
	return len(pids)
}

// now reads the Pod; nil if it is gone.
func (p *patient) now() (*corev1.Pod, error) {
	pod, err := p.Client.CoreV1().Pods(p.Name).Get(p.Ctx, p.pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pod, err
}

// within waits for a state of the Pod and returns how long that took.
func (p *patient) within(bound time.Duration, what string, want func(*corev1.Pod) bool) time.Duration {
	p.T.Helper()
	began := time.Now()
	q := *p.space
	ctx, cancel := context.WithTimeout(p.Ctx, bound)
	defer cancel()
	q.Ctx = ctx
	q.Until("Pod "+p.pod+" "+what, func() (bool, error) {
		pod, err := p.now()
		if err != nil {
			return false, err
		}
		if pod == nil {
			return want(nil), errors.New("it is gone")
		}
		return want(pod), fmt.Errorf("it is %s, containers %v", pod.Status.Phase, testcluster.States(pod))
	})
	return time.Since(began)
}

func gone(pod *corev1.Pod) bool  { return pod == nil }
func alive(pod *corev1.Pod) bool { return pod != nil && testcluster.IsReady(pod) }

// restarted says that the container ran again after an end that is told as one.
func restarted(pod *corev1.Pod) bool {
	if !alive(pod) || len(pod.Status.ContainerStatuses) == 0 {
		return false
	}
	c := pod.Status.ContainerStatuses[0]
	return c.RestartCount > 0 && c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ExitCode != 0
}

// failed says that a Pod that must not be restarted is over, with a container that ended badly.
func failed(pod *corev1.Pod) bool {
	if pod == nil || pod.Status.Phase != corev1.PodFailed || len(pod.Status.ContainerStatuses) == 0 {
		return false
	}
	end := pod.Status.ContainerStatuses[0].State.Terminated
	return end != nil && end.ExitCode != 0
}

// discharge deletes the Pod and waits until the API has forgotten it.
func (p *patient) discharge(bound time.Duration) time.Duration {
	p.T.Helper()
	p.Kubectl("delete", "pod", p.pod, "--wait=false", "--ignore-not-found")
	return p.within(bound, "is deleted", gone)
}

// told says that an event about the Pod has one of the reasons.
func (p *patient) told(reasons ...string) bool {
	p.T.Helper()
	list, err := p.Client.CoreV1().Events(p.Name).List(p.Ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.pod})
	if err != nil {
		p.T.Fatal(err)
	}
	for _, e := range list.Items {
		for _, r := range reasons {
			if e.Reason == r {
				return true
			}
		}
	}
	return false
}

// clean waits until no Pod has left anything behind. With -short, where each wait for the kubelet counts, the soak looks
// for all tests before it.
func (s *space) clean() {
	s.T.Helper()
	if !testing.Short() {
		s.mustBeClean()
	}
}

func (s *space) mustBeClean() {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.Ctx, swept)
	defer cancel()
	if err := s.Host.UntilClean(ctx); err != nil {
		s.T.Error(err)
	}
}

// nurse is a sleeper with a restart policy, or with the rights that a guest grants to a privileged container.
func nurse(name, restart string, privileged bool) string {
	y := testcluster.Sleeper(name, fmt.Sprintf("    securityContext: {privileged: %v}\n", privileged))
	return strings.Replace(y, "spec:\n", "spec:\n  restartPolicy: "+restart+"\n", 1)
}
