package robustness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// What the server and containerd may keep of the Pods they have seen. Memory that Go has freed and not yet given back,
// caches and SQLite's pages make it grow at first; a leak goes on.
const (
	growthPer100 = 48 << 20 // resident bytes of each, for each hundred Pods
	growthOnce   = 64 << 20
	strayTasks   = 40 // goroutines more or fewer: watches are renewed, connections idle
	strayConns   = 8  // sockets likewise; a Pod that left one would leave more
)

// belongings are what the host and its two processes hold when no Pod is there.
type belongings struct {
	Rules, Links, Mounts []string
	ServerFiles          []string
	ContainerdFiles      []string
	server, containerd   int64 // resident memory
	goroutines           int   // of the server
	sockets              int   // of both
	runtime              int   // goroutines of containerd
}

// TestFaultPodSoak: Pods come and go in random order, and processes of theirs are killed in between. When the last one
// is gone the host is as it was: links, mounts, packet rules, open files, goroutines; and memory within bounds.
func TestFaultPodSoak(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), 2*time.Hour)
	r := dice(t)
	for i := range 3 { // what is opened once is open from here on
		p := s.admit(fmt.Sprint("first-", i), nurse(fmt.Sprint("first-", i), "Always", false))
		p.within(replaced, "runs", alive)
		s.MustExec(p.pod, "true")
		p.discharge(deleted)
	}
	s.mustBeClean()
	before := s.belongings()
	n := soakPods(t)
	s.churn(r, n)
	s.mustBeClean()
	s.same(before, n)
}

// soakPods is how many Pods come and go: 200, or what NODELESS_SOAK_PODS says.
func soakPods(t *testing.T) int {
	t.Helper()
	text := os.Getenv("NODELESS_SOAK_PODS")
	if text == "" {
		return 200
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("NODELESS_SOAK_PODS is %q, want a number of Pods", text)
	}
	return n
}

// churn makes n Pods and deletes them all, with at most four at a time and a fault for every third.
func (s *space) churn(r *rand.Rand, n int) {
	s.T.Helper()
	var there []*patient
	for made := 0; made < n || len(there) > 0; {
		switch dice := r.IntN(6); {
		case made < n && (len(there) == 0 || (len(there) < 4 && dice < 3)):
			name := fmt.Sprintf("p%03d", made)
			there = append(there, s.admit(name, nurse(name, []string{"Always", "Never"}[r.IntN(2)], false)))
			made++
		case dice == 3 && r.IntN(2) == 0:
			kind := []string{shim, vmm, qemu, virtiofsd}[r.IntN(4)]
			if pids := s.Processes(s.T, kind); len(pids) > 0 {
				_ = syscall.Kill(pids[r.IntN(len(pids))], syscall.SIGKILL) // it may just have ended
			}
		case dice == 4 && len(there) > 0: // one that nobody waited for may not be up yet
			i := r.IntN(len(there))
			there[i].within(replaced, "has been up or has failed", settled)
		default:
			i := r.IntN(len(there))
			there[i].discharge(deleted)
			there = slices.Delete(there, i, i+1)
		}
		pause(s.Ctx, time.Duration(r.IntN(500))*time.Millisecond)
	}
}

func settled(pod *corev1.Pod) bool { return pod == nil || testcluster.IsReady(pod) || failed(pod) }

// belongings looks at everything, once nothing is on its way any more.
func (s *space) belongings() belongings {
	s.T.Helper()
	var b belongings
	var err error
	if b.Rules, err = s.Host.Rules(s.Ctx); err != nil {
		s.T.Fatal(err)
	}
	if b.Links, err = s.Host.Links(s.Ctx); err != nil {
		s.T.Fatal(err)
	}
	if b.Mounts, err = s.Host.Mounts(); err != nil {
		s.T.Fatal(err)
	}
	pid, err := s.Server.Pid()
	if err != nil {
		s.T.Fatal(err)
	}
	b.ServerFiles, b.server = s.files(pid, &b.sockets)
	for _, pid := range s.Processes(s.T, " containerd --config ") {
		b.ContainerdFiles, b.containerd = s.files(pid, &b.sockets)
		b.runtime = s.stacks(pid)
	}
	b.goroutines = s.metric("go_goroutines")
	return b
}

// number is what differs between two descriptors of a kind.
var number = regexp.MustCompile(`\[\d+\]|/\d+(/|$)`)

// files counts a process's descriptors by kind; sockets are added to a count of their own.
func (s *space) files(pid int, sockets *int) ([]string, int64) {
	s.T.Helper()
	u, err := testbed.UsageOf(pid)
	if err != nil {
		s.T.Fatal(err)
	}
	kinds := map[string]int{}
	for _, f := range u.Files {
		kinds[number.ReplaceAllString(f, "$1")]++
	}
	var out []string
	for kind, n := range kinds {
		if kind == "socket:" {
			*sockets += n
			continue
		}
		out = append(out, fmt.Sprintf("%d × %s", n, kind))
	}
	slices.Sort(out)
	return out, u.RSS
}

// metric reads one of the server's figures.
func (s *space) metric(name string) int {
	s.T.Helper()
	for line := range strings.Lines(s.Kubectl("get", "--raw", "/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.T.Fatal(err)
			}
			return int(n)
		}
	}
	s.T.Fatalf("the server has no figure %s", name)
	return 0
}

// stacks counts containerd's goroutines. It writes them to a file when asked by a signal.
func (s *space) stacks(pid int) int {
	s.T.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		s.T.Fatal(err)
	}
	_, inside, _ := strings.Cut(string(status), "NSpid:")
	inside, _, _ = strings.Cut(inside, "\n")
	ids := strings.Fields(inside)
	file := s.Host.Path(fmt.Sprintf("/tmp/containerd.%s.stacks.log", ids[len(ids)-1]))
	defer os.Remove(file)
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		s.T.Fatal(err)
	}
	n := 0
	s.Until("containerd has written its stacks", func() (bool, error) {
		b, err := os.ReadFile(file)
		n = bytes.Count(b, []byte("\ngoroutine ")) + 1
		return err == nil && len(b) > 0 && b[len(b)-1] == '\n', err
	})
	return n
}

// same waits until the host is as it was before, and compares memory.
func (s *space) same(before belongings, n int) {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(s.Ctx, 3*time.Minute) // idle connections are closed after ninety seconds
	defer cancel()
	var now belongings
	err := s.Server.Until(ctx, "the host is as it was", func(context.Context) (bool, error) {
		now = s.belongings()
		diff := cmp.Diff(before, now, cmpopts.IgnoreUnexported(belongings{}))
		if d := now.goroutines - before.goroutines; d > strayTasks {
			diff += fmt.Sprintf("%d goroutines of the server more\n", d)
		}
		if d := now.runtime - before.runtime; d > strayTasks {
			diff += fmt.Sprintf("%d goroutines of containerd more\n", d)
		}
		if d := now.sockets - before.sockets; d > strayConns {
			diff += fmt.Sprintf("%d sockets more\n", d)
		}
		if diff != "" {
			return false, errors.New(diff)
		}
		return true, nil
	})
	if err != nil {
		s.T.Error(err)
	}
	most := int64(growthOnce + growthPer100*n/100)
	s.T.Logf("after %d Pods: server %+d KiB to %d MiB, containerd %+d KiB to %d MiB; goroutines %+d and %+d; files %d and %d",
		n, (now.server-before.server)>>10, now.server>>20, (now.containerd-before.containerd)>>10, now.containerd>>20,
		now.goroutines-before.goroutines, now.runtime-before.runtime, len(now.ServerFiles), len(now.ContainerdFiles))
	if d := now.server - before.server; d > most {
		s.T.Errorf("the server grew by %d MiB, more than %d", d>>20, most>>20)
	}
	if d := now.containerd - before.containerd; d > most {
		s.T.Errorf("containerd grew by %d MiB, more than %d", d>>20, most>>20)
	}
}
