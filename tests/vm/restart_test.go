package vm_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/server/bootstrap"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// collected is when the kubelet has surely collected what is left of dead sandboxes: it looks once a minute.
const collected = 2 * time.Minute

// TestKilledServerLeavesPodsRunning: kill -9 and a new start; the same Pods run on, not restarted. So they do when their Node is deleted.
func TestKilledServerLeavesPodsRunning(t *testing.T) {
	shared.OwnHost(t, "the server is started anew by the test")
	s := newQuietSpace(t, 6*time.Minute)
	s.Apply(fmt.Sprintf(webDeployment, 2))
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: ticker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "i=0; while :; do echo tick $i; i=$((i+1)); sleep 1; done"]}
`)
	before := append(s.Pods("app=web", 2), *s.Ready("ticker"))
	boot := s.MustExec("ticker", "cat", "/proc/sys/kernel/random/boot_id")
	s.deleteNode()
	for _, old := range before {
		compare(t, old, append(s.Pods("app=web", 2), *s.Ready("ticker")))
	}

	late := s.bootAnother("late") // and its shim goes with the server
	if err := errors.Join(s.Host.Kill(late, syscall.SIGKILL), s.Server.Signal(syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Ctx, time.Minute)
	defer cancel()
	s.Server.Wait(ctx) //nolint:errcheck // it was killed
	// Pods answer while there is no server.
	if _, err := s.get("http://" + before[0].Status.PodIP + ":8080/"); err != nil {
		t.Errorf("host to Pod without a server: %v", err)
	}
	if err := s.Start(s.Ctx); err != nil {
		t.Fatalf("start again: %v", err)
	}

	after := append(s.Pods("app=web", 2), *s.Ready("ticker"))
	for _, old := range before {
		compare(t, old, after)
	}
	// The Node still says Ready from before; the kubelet may need another moment to listen.
	s.Until("exec works again", func() (bool, error) {
		out, code := s.Exec("ticker", "true")
		return code == 0, fmt.Errorf("code %d: %s", code, out)
	})
	if got := s.MustExec("ticker", "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("the microVM was booted again")
	}
	if _, code := s.Exec(before[0].Name, "true"); code != 0 {
		t.Errorf("exec after the restart: code %d", code)
	}
	s.boundOnHost(s.Ready("late"))
	// The log goes on, and what was written in between is there.
	logs := s.follow("ticker")
	logs.waitFor("tick 0\n")
	logs.waitFor("tick 1\n")
	s.Kubectl("delete", "pod", "ticker")
	checkTicks(t, logs.rest())
}

// deleteNode deletes the host's Node, which comes back as it was, by itself, within a minute.
func (s *space) deleteNode() {
	s.T.Helper()
	nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		s.T.Fatalf("%d nodes, %v; want the host's", len(nodes.Items), err)
	}
	old := nodes.Items[0]
	s.Kubectl("label", "node", old.Name, "node-role.kubernetes.io/mine=", "test.nodeless.io/kept=yes")
	s.Kubectl("taint", "node", old.Name, "mine=kept:PreferNoSchedule")
	began := time.Now()
	s.Kubectl("delete", "node", old.Name)
	s.Until("the Node is there again", func() (bool, error) {
		node, err := s.Client.CoreV1().Nodes().Get(s.Ctx, old.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		_, role := node.Labels["node-role.kubernetes.io/mine"]
		tainted := slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == "mine" })
		if node.UID == old.UID || !role || node.Labels["test.nodeless.io/kept"] != "yes" || !tainted || node.Spec.PodCIDR != old.Spec.PodCIDR {
			return false, fmt.Errorf("labels %v, spec %+v", node.Labels, node.Spec)
		}
		return bootstrap.Schedulable(node), fmt.Errorf("conditions %+v, taints %v", node.Status.Conditions, node.Spec.Taints)
	})
	s.Until("the kubelet goes on with it", func() (bool, error) {
		lease, err := s.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(s.Ctx, old.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return lease.Spec.RenewTime.After(began), fmt.Errorf("heard of it at %v", lease.Spec.RenewTime)
	})
	if took := time.Since(began); took > time.Minute {
		s.T.Errorf("the Node was back after %s, want a minute", took.Round(time.Second))
	}
	s.Kubectl("taint", "node", old.Name, "mine-")
	s.Kubectl("label", "node", old.Name, "node-role.kubernetes.io/mine-", "test.nodeless.io/kept-")
}

func compare(t *testing.T, old corev1.Pod, now []corev1.Pod) {
	t.Helper()
	for _, pod := range now {
		if pod.UID != old.UID {
			continue
		}
		was, is := old.Status.ContainerStatuses[0], pod.Status.ContainerStatuses[0]
		if is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount {
			t.Errorf("Pod %s: container %s with %d restarts, before %s with %d", pod.Name, is.ContainerID, is.RestartCount, was.ContainerID, was.RestartCount)
		}
		return
	}
	t.Errorf("Pod %s is gone", old.Name)
}

// checkTicks: every number from 0 on is there once.
func checkTicks(t *testing.T, log string) {
	t.Helper()
	next := 0
	for _, line := range splitLines(log) {
		var n int
		if _, err := fmt.Sscanf(line, "tick %d", &n); err != nil {
			continue
		}
		if n != next {
			t.Errorf("log has tick %d where tick %d belongs", n, next)
			return
		}
		next++
	}
	if next < 3 {
		t.Errorf("log has %d ticks", next)
	}
}

// TestNothingIsLeftOfDeletedPods is the promise that a host stays clean.
func TestNothingIsLeftOfDeletedPods(t *testing.T) {
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(fmt.Sprintf(webDeployment, 3))
	s.Apply(testcluster.Sleeper("kept", ""))
	s.Pods("app=web", 3)
	s.Ready("kept")
	s.Kubectl("delete", "deployment", "web")
	s.Kubectl("delete", "pod", "kept")
	s.Pods("", 0)
	ctx, cancel := context.WithTimeout(s.Ctx, s.Host.Patience(collected))
	defer cancel()
	if err := s.Host.UntilClean(ctx); err != nil {
		t.Error(err)
	}
}

// TestKilledVMIsCleanedUpAndReplaced: whatever process of a Pod dies, nothing of it stays and its Pod comes back.
func TestKilledVMIsCleanedUpAndReplaced(t *testing.T) {
	for _, victim := range []string{"qemu-system", "nodeless-vmm", "containerd-shim"} {
		t.Run(victim, func(t *testing.T) {
			s := newQuietSpace(t, 5*time.Minute)
			s.Apply(testcluster.Sleeper("a", ""))
			s.Ready("a")
			pids := s.Processes(s.T, victim)
			if len(pids) == 0 {
				t.Fatalf("there is no %s", victim)
			}
			for _, pid := range pids {
				if err := s.Host.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			s.Pod("a", "was restarted in a new microVM", func(pod *corev1.Pod) bool {
				return testcluster.IsReady(pod) && pod.Status.ContainerStatuses[0].RestartCount == 1
			})
			s.Kubectl("delete", "pod", "a")
			ctx, cancel := context.WithTimeout(s.Ctx, s.Host.Patience(collected))
			defer cancel()
			if err := s.Host.UntilClean(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPodWhoseBootsFail: whatever process of a Pod dies while its microVM boots, the next try succeeds, has the host's limit on the
// Pod that its spec asks for, and finds nothing left of the ones before.
func TestPodWhoseBootsFail(t *testing.T) {
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(testcluster.Sleeper("a", ""))
	for _, victim := range []string{"nodeless-vmm", "containerd-shim"} {
		s.killBooting(victim)
	}
	s.boundOnHost(s.Ready("a"))
}

// bootAnother makes a Pod and returns the process of its shim, while its microVM boots.
func (s *space) bootAnother(name string) (shim int) {
	s.T.Helper()
	shims, vms := s.Processes(s.T, "containerd-shim"), len(s.Processes(s.T, "qemu-system"))
	s.Apply(testcluster.Sleeper(name, ""))
	s.Until("another microVM boots", func() (bool, error) {
		if len(s.Processes(s.T, "qemu-system")) <= vms {
			return false, nil
		}
		for _, pid := range s.Processes(s.T, "containerd-shim") {
			if !slices.Contains(shims, pid) {
				shim = pid
			}
		}
		return shim != 0, nil
	})
	return shim
}

// killBooting kills a process of a microVM as soon as its QEMU is there.
func (s *space) killBooting(victim string) {
	s.T.Helper()
	s.Until("a microVM boots", func() (bool, error) { return len(s.Processes(s.T, "qemu-system")) > 0, nil })
	for _, pid := range s.Processes(s.T, victim) {
		if err := s.Host.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.T.Fatal(err)
		}
	}
	s.Until("it is gone", func() (bool, error) { return len(s.Processes(s.T, "qemu-system")) == 0, nil })
}

// boundOnHost checks the host's limit on a running Pod's CPU time, and that the Pod's cgroup holds its one microVM and no remains.
func (s *space) boundOnHost(pod *corev1.Pod) {
	s.T.Helper()
	size, err := podsize.ParseSize(pod.Annotations[api.Spec], pod.Annotations[api.SpecType])
	if err != nil {
		s.T.Fatal(err)
	}
	want := strconv.FormatInt(size.CPU*100, 10) // microseconds of 100000, by thousandths
	limits, err := s.Host.CgroupFiles("pod"+string(pod.UID), "cpu.cfs_quota_us", "cpu.max")
	if err != nil {
		s.T.Fatal(err)
	}
	for file, limit := range limits {
		if got, _, _ := strings.Cut(limit, " "); got != want {
			s.T.Errorf("%s is %s, want %s", file, got, want)
		}
		if left, err := s.Host.Glob(filepath.Dir(file) + "/kata_*"); err != nil || len(left) != 1 {
			s.T.Errorf("in the Pod's cgroup are %v, want its one microVM's (%v)", left, err)
		}
	}
	if len(limits) == 0 {
		s.T.Errorf("the cgroup of Pod %s is not found", pod.UID)
	}
}
