package attacks_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// piece makes a file of 4 MiB in a Pod. What is written must not be zeros, which take no room.
const piece = "head -c 4194304 /dev/urandom >/piece"

// TestAttackFiguresOfAPod: what a Pod is evicted by is what its host counts. A guest whose containers use next to nothing, by its own word,
// takes more than a hundred MiB of the host.
func TestAttackFiguresOfAPod(t *testing.T) {
	s := testcluster.NewSpace(t, shared, 3*time.Minute)
	s.Apply(testcluster.Sleeper("counted", ""))
	pod := s.Ready("counted")
	s.MustExec("counted", "sh", "-c", piece+"; for i in 0 1 2 3 4 5 6 7; do cat /piece; done >/fill; sync")
	attack.Try(t, "T16", "a guest takes memory that it does not tell of", func(t *testing.T) attack.Outcome {
		s.Until("the Pod's memory is the host's figure", func() (bool, error) {
			stats, err := figuresOf(s, pod)
			if err != nil || stats.Memory == nil || stats.Memory.WorkingSetBytes == nil {
				return false, err
			}
			t.Logf("the Pod takes %d MiB", *stats.Memory.WorkingSetBytes>>20)
			return *stats.Memory.WorkingSetBytes > 100<<20, nil
		})
		return attack.Contained
	})
	attack.Try(t, "T7", "a guest fills a disk that the kubelet does not see", func(t *testing.T) attack.Outcome {
		s.Until("the Pod's disk counts", func() (bool, error) {
			stats, err := figuresOf(s, pod)
			if err != nil || stats.EphemeralStorage == nil || stats.EphemeralStorage.UsedBytes == nil {
				return false, err
			}
			return *stats.EphemeralStorage.UsedBytes > 32<<20, fmt.Errorf("it takes %d bytes", *stats.EphemeralStorage.UsedBytes)
		})
		return attack.Contained
	})
	attack.Try(t, "T4", "a guest fills the host's disk through /etc/hosts", func(t *testing.T) attack.Outcome {
		before, err := figuresOf(s, pod)
		if err != nil {
			t.Fatal(err)
		}
		s.MustExec("counted", "sh", "-c", "for i in 0 1 2 3 4 5 6 7; do cat /piece; done >>/etc/hosts; sync")
		info, err := os.Lstat(s.Host.Path(filepath.Join("/var/lib/nodeless/agent/kubelet/pods", string(pod.UID), "etc-hosts")))
		if err != nil || info.Size() < 32<<20 {
			t.Fatalf("the host's file: %v, %v", info, err)
		}
		want := *before.EphemeralStorage.UsedBytes + 24<<20
		s.Until("the file counts as the Pod's", func() (bool, error) {
			stats, err := figuresOf(s, pod)
			if err != nil || stats.EphemeralStorage == nil || stats.EphemeralStorage.UsedBytes == nil {
				return false, err
			}
			return *stats.EphemeralStorage.UsedBytes > want, fmt.Errorf("it takes %d bytes, want %d", *stats.EphemeralStorage.UsedBytes, want)
		})
		return attack.Contained
	})
}

// figuresOf asks the kubelet for what it goes by.
func figuresOf(s *testcluster.Space, pod *corev1.Pod) (v1alpha1.PodStats, error) {
	raw, err := s.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", pod.Spec.NodeName, "proxy/stats/summary").DoRaw(s.Ctx)
	if err != nil {
		return v1alpha1.PodStats{}, err
	}
	var summary v1alpha1.Summary
	if err := json.Unmarshal(raw, &summary); err != nil {
		return v1alpha1.PodStats{}, err
	}
	for _, p := range summary.Pods {
		if p.PodRef.UID == string(pod.UID) {
			return p, nil
		}
	}
	return v1alpha1.PodStats{}, errors.New("the kubelet has no figures of the Pod")
}

// TestAttackDiskLimits: Pods that write more than their limit, to their disk or to an emptyDir, or make more files there than they may, are
// evicted for that.
func TestAttackDiskLimits(t *testing.T) {
	attack.Slow(t)
	s := testcluster.NewSpace(t, shared, 6*time.Minute)
	const limit = "    resources: {limits: {ephemeral-storage: 100Mi}, requests: {ephemeral-storage: 10Mi}}\n"
	s.Apply(testcluster.Sleeper("disk", limit))
	s.Apply(testcluster.Sleeper("dir", "    volumeMounts: [{name: d, mountPath: /d}]\n  volumes: [{name: d, emptyDir: {sizeLimit: 50Mi}}]\n"))
	s.Apply(testcluster.Sleeper("files", "    volumeMounts: [{name: d, mountPath: /d}]\n  volumes: [{name: d, emptyDir: {sizeLimit: 4Mi}}]\n"))
	s.Apply(testcluster.Sleeper("neighbour", ""))
	for _, name := range []string{"disk", "dir", "files", "neighbour"} {
		s.Ready(name)
	}
	// 1,500 empty files are 6 MiB at least.
	s.MustExec("files", "sh", "-c", "(n=0; while [ $n -lt 1500 ]; do : >/d/$n; n=$((n+1)); done) >/dev/null 2>&1 &")
	for name, file := range map[string]string{"disk": "/fill", "dir": "/d/fill"} {
		s.MustExec(name, "sh", "-c", piece+"; (n=0; while [ $n -lt 48 ]; do cat /piece; n=$((n+1)); done >"+file+"; sync) >/dev/null 2>&1 &")
	}
	for name, what := range map[string]string{"disk": "a Pod writes more to its disk than it may", "dir": "a Pod writes more to an emptyDir than it may",
		"files": "a Pod makes more empty files in an emptyDir than it may"} {
		attack.Try(t, "T7", what, func(t *testing.T) attack.Outcome {
			s.Until("Pod "+name+" is evicted", func() (bool, error) { return told(s, name, "Evicted") })
			s.Pod(name, "has ended", func(p *corev1.Pod) bool {
				return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
			})
			if !testcluster.IsReady(s.Ready("neighbour")) {
				return attack.Succeeded
			}
			return attack.Contained
		})
	}
}

// TestAttackDiskOfTheHost: a tenant's Pod fills the disk of the whole host. It is told and waits. Another tenant's Pod, the API and the
// database are as before. When there is room the Pod goes on, and it can be deleted.
func TestAttackDiskOfTheHost(t *testing.T) {
	attack.Slow(t)
	host, err := testbed.New(testbed.Options{DataSize: 3 << 30})
	if err != nil {
		t.Fatal(err)
	}
	c := &testcluster.Cluster{Host: host, Flags: []string{"--disk-reserve=15"}}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := testcluster.NewSpace(t, c, 10*time.Minute)
	neighbour := *s // another tenant's
	neighbour.Name += "-b"
	s.Kubectl("create", "namespace", neighbour.Name)
	neighbour.Until("service account", func() (bool, error) {
		_, err := s.Client.CoreV1().ServiceAccounts(neighbour.Name).Get(s.Ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
	neighbour.Apply(testcluster.Sleeper("modest", "    readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 5, timeoutSeconds: 5}\n"))
	attack.Try(t, "T7", "a tenant fills the disk that all tenants share", func(t *testing.T) attack.Outcome {
		fillHost(t, s, &neighbour, "greedy", "/fill", 45*time.Second) // Kata ends a guest that is silent for half a minute
		return attack.Contained
	})
	attack.Try(t, "T7", "a tenant fills it through a volume", func(t *testing.T) attack.Outcome {
		fillHost(t, s, &neighbour, "hoarder", "/d/fill", 10*time.Second)
		return attack.Contained
	})
	attack.Try(t, "T7", "a tenant without a volume fills it through its hosts file", func(t *testing.T) attack.Outcome {
		fillHosts(t, s, &neighbour)
		return attack.Contained
	})
}

// fillHosts has a Pod that shares no more with its host than the kubelet's files append to /etc/hosts where little is left.
func fillHosts(t *testing.T, s, neighbour *testcluster.Space) {
	if _, err := s.Host.Exec(s.Ctx, "rm", "-f", filler); err != nil {
		t.Fatal(err)
	}
	s.Apply(testcluster.Sleeper("scribe", ""))
	pod := s.Ready("scribe")
	s.MustExec("scribe", "sh", "-c", piece+"; sync") // its own disk gets nothing more
	neighbour.Ready("modest")
	neighbour.MustExec("modest", "sync") // nor does that of the neighbour, which may have just started
	const reserve = int64(3<<30) / 100 * 15
	if _, err := s.Host.Exec(s.Ctx, "dd", "if=/dev/zero", "of="+filler, "bs=1M", fmt.Sprintf("count=%d", (diskFree(t, s)-reserve-100<<20)>>20)); err != nil {
		t.Fatal(err)
	}
	s.MustExec("scribe", "sh", "-c", "(while cat /piece; do :; done >>/etc/hosts) >/dev/null 2>&1 &")
	s.Until("the Pod is told that it waits", func() (bool, error) { return told(s, "scribe", "DiskHeld") })
	size := func() int64 {
		info, err := os.Lstat(s.Host.Path(filepath.Join("/var/lib/nodeless/agent/kubelet/pods", string(pod.UID), "etc-hosts")))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var held int64
	s.Until("its writes wait", func() (bool, error) {
		before := held
		held = size()
		return held == before, fmt.Errorf("/etc/hosts has %d MiB, and had %d", held>>20, before>>20)
	})
	if held < 64<<20 {
		t.Errorf("it is held with %d MiB in /etc/hosts, want those that were left at least", held>>20)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if now := size(); now > held {
			t.Fatalf("/etc/hosts grows from %d to %d MiB while the Pod is held", held>>20, now>>20)
		}
	}
	if left := diskFree(t, s); left < reserve/3 {
		t.Fatalf("of the reserve of %d MiB %d are left", reserve>>20, left>>20)
	}
	if _, code := neighbour.Exec("modest", "sh", "-c", "echo fine >/note && sync"); code != 0 {
		t.Error("the neighbour cannot write")
	}
	if _, err := s.Host.Exec(s.Ctx, "truncate", "-s", "-200M", filler); err != nil {
		t.Fatal(err)
	}
	s.Until("the Pod goes on", func() (bool, error) { return size() > held, nil })
	s.Kubectl("delete", "pod", "scribe", "--timeout=60s")
}

const filler = "/var/lib/nodeless/filler" // on the host's disk

// fillHost has a Pod write to a file without end where little is left, and watches for a while what becomes of the others.
func fillHost(t *testing.T, s, neighbour *testcluster.Space, name, file string, watch time.Duration) {
	if _, err := s.Host.Exec(s.Ctx, "rm", "-f", filler); err != nil {
		t.Fatal(err)
	}
	s.Apply(testcluster.Sleeper(name, "    volumeMounts: [{name: d, mountPath: /d}]\n  volumes: [{name: d, emptyDir: {}}]\n"))
	s.Ready(name)
	before := neighbour.Ready("modest")
	free := diskFree(t, s)
	reserve := int64(3<<30) / 100 * 15
	if _, err := s.Host.Exec(s.Ctx, "dd", "if=/dev/zero", "of="+filler, "bs=1M", fmt.Sprintf("count=%d", (free-reserve-300<<20)>>20)); err != nil {
		t.Fatal(err)
	}
	s.MustExec(name, "sh", "-c", piece+"; (while cat /piece; do :; done >"+file+") >/dev/null 2>&1 &")
	s.Until("the Pod is told that it waits", func() (bool, error) { return told(s, name, "DiskHeld") })
	least := diskFree(t, s)
	var took []time.Duration // of each write to the database
	for end := time.Now().Add(watch); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		least = min(least, diskFree(t, s))
		began := time.Now()
		if _, err := s.Client.CoreV1().ConfigMaps(s.Name).Create(s.Ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "written-"}}, metav1.CreateOptions{}); err != nil {
			t.Errorf("the database cannot be written: %v", err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d MiB of a reserve of %d MiB were left at least; %d writes to the database took %v (p99)", least>>20, reserve>>20, len(took), p99)
	if p99 >= neighbourDelay {
		t.Errorf("writes to the database took %s (p99), want less than %s", p99, neighbourDelay)
	}
	if least < reserve/3 {
		t.Error("the reserve is gone")
	}
	for _, pod := range []*corev1.Pod{s.Ready(name), neighbour.Ready("modest")} {
		if pod.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("Pod %s was restarted: %v", pod.Name, testcluster.States(pod))
		}
	}
	if now := neighbour.Ready("modest"); now.UID != before.UID {
		t.Error("the neighbour is another Pod now")
	}
	if _, code := neighbour.Exec("modest", "sh", "-c", "echo fine >/note && sync"); code != 0 {
		t.Error("the neighbour cannot write")
	}
	if _, err := s.Host.Exec(s.Ctx, "truncate", "-s", "-200M", filler); err != nil {
		t.Fatal(err)
	}
	s.Until("the Pod goes on, to where it waits again", func() (bool, error) {
		left := diskFree(t, s)
		return left < reserve+50<<20, fmt.Errorf("%d MiB are left", left>>20)
	})
	began := time.Now()
	s.Kubectl("delete", "pod", name, "--timeout=45s") // it is held: it filled what it got. A guest that is not may take a minute
	t.Logf("deleted after %v", time.Since(began).Round(time.Second))
	s.Until("its disk is free", func() (bool, error) { return diskFree(t, s) > reserve+200<<20, nil })
}

// told tells whether there is an event of that reason about a Pod.
func told(s *testcluster.Space, pod, reason string) (bool, error) {
	list, err := s.Client.CoreV1().Events(s.Name).List(s.Ctx, metav1.ListOptions{FieldSelector: "reason=" + reason + ",involvedObject.name=" + pod})
	return err == nil && len(list.Items) > 0, err
}

// diskFree is what is left of the file system of the host's data dir.
func diskFree(t *testing.T, s *testcluster.Space) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(s.Host.Path("/var/lib/nodeless"), &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}
