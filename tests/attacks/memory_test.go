package attacks_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestAttackMemoryOfTheDaemons: all Pods together leave the server what it needs, whatever they are and whatever images they bring.
func TestAttackMemoryOfTheDaemons(t *testing.T) {
	s := testcluster.NewSpace(t, shared, time.Minute)
	nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("nodes: %v, %v", nodes, err)
	}
	capacity, allocatable := nodes.Items[0].Status.Capacity.Memory().Value(), nodes.Items[0].Status.Allocatable.Memory().Value()
	attack.Try(t, "T6", "Pods ask for all of the host's memory", func(t *testing.T) attack.Outcome {
		if kept := capacity - allocatable; kept < capacity/12 {
			t.Errorf("of %d MiB %d are kept back", capacity>>20, kept>>20)
		}
		return attack.Refused
	})
	attack.Try(t, "T6", "Pods take more of the host's memory than there is for Pods", func(t *testing.T) attack.Outcome {
		if limit := limitOf(t, "kubepods"); limit <= 0 || limit > capacity-capacity/12 {
			t.Errorf("all Pods together may take %d MiB of %d", limit>>20, capacity>>20)
		}
		return attack.Contained
	})
	attack.Try(t, "T6", "containerd is made to take all of the host's memory", func(t *testing.T) attack.Outcome {
		containerd := s.Processes(t, " containerd --config ")
		if len(containerd) != 1 {
			t.Fatalf("processes of containerd: %v, want one", containerd)
		}
		if limit := limitOf(t, "containerd"); limit <= 0 || limit > 5<<30 {
			t.Errorf("containerd may take %d MiB", limit>>20)
		}
		procs := readCgroup(t, "containerd", "cgroup.procs")
		if !slices.Contains(strings.Fields(procs), strconv.Itoa(containerd[0])) {
			t.Errorf("containerd, %d, is not in its cgroup: %q", containerd[0], procs)
		}
		env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(containerd[0]), "environ"))
		if err != nil || !strings.Contains(string(env), "GOMEMLIMIT=") {
			t.Errorf("containerd does not know what to aim at: %v", err)
		}
		return attack.Contained
	})
}

// readCgroup reads a file of a cgroup below the server's, where memory is counted; the name depends on the version.
func readCgroup(t *testing.T, name string, files ...string) string {
	t.Helper()
	for _, file := range files {
		for _, top := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
			if raw, err := os.ReadFile(filepath.Join(top, shared.Host.Cgroup, name, file)); err == nil {
				return string(raw)
			}
		}
	}
	t.Fatalf("cgroup %s has none of %v", name, files)
	return ""
}

// limitOf is a cgroup's bound on memory, -1 for none.
func limitOf(t *testing.T, name string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(readCgroup(t, name, "memory.limit_in_bytes", "memory.max")), 10, 64)
	if err != nil || n >= 1<<62 {
		return -1
	}
	return n
}
