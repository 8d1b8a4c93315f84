package attacks_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodeless/nodeless/pkg/memcg"
	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

const (
	// smallest is the least spec: with its microVM such a Pod has 960 MiB of the host.
	smallest = "    resources: {limits: {cpu: 250m, memory: 512Mi}}\n"
	// smallHost is the memory of a host for three of them, or four, with what the kubelet and the scheduler leave free.
	smallHost = 3*960<<20 + 1200<<20
	logRate   = 1 // MiB a second that its Pods may say
	// hoard has a Pod touch all the memory that it can: a volume in memory, one that its host caches, a process's own, and pages of a file
	// without content. The last stay: they were read once, so that its guest counts them as good as free, and does not hand them back. They
	// are many at a time, since a quarter of an emulated processor writes a MiB of single bytes in a second.
	hoard = `dd if=/dev/zero of=/m/fill bs=1M count=100; rm -f /m/fill
dd if=/dev/zero of=/d/fill bs=1M count=100; dd if=/d/fill of=/dev/null bs=1M; rm -f /d/fill; /hello alloc 200
dd if=/dev/zero of=/sparse bs=1M count=0 seek=650; dd if=/sparse of=/dev/null bs=1M; true`
	// hoarded is what a Pod takes of its host then, in MiB, at least; one that does nothing takes half of it.
	hoarded = 600
	// missing is by how much the host is short of memory, in bytes.
	missing = 200 << 20
)

// TestAttackASmallHost: tenants fill a small host, with more Pods than it holds, which take all that they can. Then the host is short of
// memory, and evicts one of those who have much, whatever their guests say.
func TestAttackASmallHost(t *testing.T) {
	attack.Slow(t)
	c := newSmallHost(t)
	victim, mallory, magnate := newTenant(t, c, "victim"), newTenant(t, c, "mallory"), newTenant(t, c, "magnate", "--quota", "none")
	victim.Apply(testcluster.Sleeper("neighbour", smallest))
	victim.Ready("neighbour")
	hoarders := []*tenant{mallory, magnate}
	for _, h := range hoarders {
		h.Apply(hoarder("hog"))
	}
	for _, h := range hoarders {
		h.Ready("hog")
	}
	// The guests are idle still: a busy one on an emulated processor says less than it may.
	attack.Try(t, "T13", "a container says more than its Pod may", func(t *testing.T) attack.Outcome { return babble(t, mallory) })
	attack.Try(t, "T6", "tenants fill the host's memory with more Pods than it holds", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		for _, h := range hoarders {
			h.Apply(hoarder("more"))
		}
		for _, h := range hoarders {
			h.MustExec("hog", "sh", "-c", "("+hoard+") >/dev/null 2>&1 &")
		}
		for _, h := range hoarders {
			untilHoards(h)
		}
		mallory.Until("not all of them find room", func() (bool, error) {
			for _, h := range hoarders {
				if refused, err := told(h.Space, "more", "FailedScheduling"); refused || err != nil {
					return refused, err
				}
			}
			return false, nil
		})
		finish(t)
		return attack.Contained
	})
	attack.Try(t, "T16", "a guest whose containers use next to nothing takes memory of which the host runs short", func(t *testing.T) attack.Outcome {
		return lieUnderPressure(t, c, victim, hoarders)
	})
}

// newSmallHost is a cluster on a host of its own, whose Pods have little memory together.
func newSmallHost(t *testing.T) *testcluster.Cluster {
	t.Helper()
	host, err := testbed.New(testbed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &testcluster.Cluster{Host: host}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	total, err := memcg.Total("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	rest := total - memcg.For(total, 110).KubeReserved - smallHost
	if rest < 0 {
		t.Skipf("skipped: a machine with %d MiB of memory is too small", total>>20)
	}
	c.Flags = []string{fmt.Sprintf("--kubelet-arg=system-reserved=memory=%d", rest), fmt.Sprintf("--pod-log-rate=%d", logRate)}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func hoarder(name string) string {
	return testcluster.Sleeper(name, smallest+"    volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]\n"+
		"  volumes: [{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]\n")
}

// babble has a container fill its log as fast as it can. What it may save up is gone when the time is taken.
func babble(t *testing.T, from *tenant) attack.Outcome {
	const all = 12 << 20
	say := func() float64 {
		began := time.Now()
		from.MustExec("hog", "sh", "-c", fmt.Sprintf("dd if=/dev/zero of=/proc/1/fd/1 bs=64k count=%d 2>/dev/null", all>>16))
		return all / time.Since(began).Seconds()
	}
	first, pace := say(), say()
	t.Logf("%.2f MiB a second at first, then %.2f of %d", first/(1<<20), pace/(1<<20), logRate)
	if first < 1.5*logRate*(1<<20) { // of this most was saved up
		t.Skip("skipped: the guest is too slow to say more than it may, as an emulated one is; the bound itself is tested in cmd/kata-shim")
	}
	if pace > 1.5*logRate*(1<<20) {
		return attack.Succeeded
	}
	return attack.Contained
}

// untilHoards waits until a hoarder has most of what its Pod may have of the host.
func untilHoards(h *tenant) {
	h.T.Helper()
	h.Until("the Pod of "+h.Name+" has taken its memory", func() (bool, error) {
		stats, err := figuresOf(h.Space, h.Ready("hog"))
		if err != nil || stats.Memory == nil || stats.Memory.WorkingSetBytes == nil {
			return false, err
		}
		mib := *stats.Memory.WorkingSetBytes >> 20
		return mib > hoarded, fmt.Errorf("it has %d MiB", mib)
	})
}

// lieUnderPressure starts the server anew with a bound by which the host is short of memory. The neighbour's container has more than a
// hoarder's, by the guests' word.
func lieUnderPressure(t *testing.T, c *testcluster.Cluster, victim *tenant, hoarders []*tenant) attack.Outcome {
	victim.MustExec("neighbour", "sh", "-c", "HOLD=1 /hello alloc 200 >/dev/null 2>&1 &")
	victim.Until("the neighbour's container is the larger one, by the guests' word", func() (bool, error) {
		its, err := guestWord(victim, "neighbour")
		for _, h := range hoarders {
			other, otherErr := guestWord(h, "hog")
			if err != nil || otherErr != nil || its < other+(50<<20) {
				return false, fmt.Errorf("it has %d MiB, that of %s %d (%w, %w)", its>>20, h.Name, other>>20, err, otherErr)
			}
		}
		return true, nil
	})
	left := memoryLeft(t, victim.Space)
	if err := c.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	c.Flags = append(c.Flags, fmt.Sprintf("--kubelet-arg=eviction-soft=memory.available<%d", left+missing),
		"--kubelet-arg=eviction-soft-grace-period=memory.available=1s", "--kubelet-arg=eviction-pressure-transition-period=10s")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	finish := watch(t, victim, "neighbour")
	victim.Until("one of those who have much is evicted", func() (bool, error) {
		for _, h := range hoarders {
			if evicted, err := told(h.Space, "hog", "Evicted"); evicted || err != nil {
				return evicted, err
			}
		}
		return false, nil
	})
	victim.Until("the host is short no longer", func() (bool, error) {
		now := memoryLeft(t, victim.Space)
		return now > left+missing, fmt.Errorf("%d MiB are left", now>>20)
	})
	finish(t)
	return attack.Contained
}

// guestWord is what the containers of a Pod use, as its guest says.
func guestWord(owner *tenant, name string) (bytes uint64, err error) {
	stats, err := figuresOf(owner.Space, owner.Ready(name))
	for _, c := range stats.Containers {
		if c.Memory != nil && c.Memory.WorkingSetBytes != nil {
			bytes += *c.Memory.WorkingSetBytes
		}
	}
	return bytes, err
}

// memoryLeft is what the kubelet takes for the host's free memory.
func memoryLeft(t *testing.T, s *testcluster.Space) uint64 {
	t.Helper()
	pod := s.Ready("neighbour")
	raw, err := s.Cluster.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", pod.Spec.NodeName, "proxy/stats/summary").DoRaw(s.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	var summary v1alpha1.Summary
	if err := json.Unmarshal(raw, &summary); err != nil || summary.Node.Memory == nil || summary.Node.Memory.AvailableBytes == nil {
		t.Fatalf("the kubelet does not say what is left of memory: %v", err)
	}
	return *summary.Node.Memory.AvailableBytes
}
