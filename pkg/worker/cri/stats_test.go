package cri

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/tests/attack"
)

// guestSays is containerd with what one guest says of itself.
type guestSays struct {
	cri.RuntimeServiceClient
	stats      []*cri.PodSandboxStats
	sandboxes  []*cri.PodSandbox
	containers []*cri.Container
}

func (g guestSays) ListPodSandboxStats(context.Context, *cri.ListPodSandboxStatsRequest, ...grpc.CallOption) (*cri.ListPodSandboxStatsResponse, error) {
	return &cri.ListPodSandboxStatsResponse{Stats: g.stats}, nil
}

func (g guestSays) PodSandboxStats(context.Context, *cri.PodSandboxStatsRequest, ...grpc.CallOption) (*cri.PodSandboxStatsResponse, error) {
	return &cri.PodSandboxStatsResponse{Stats: g.stats[0]}, nil
}

func (g guestSays) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest, ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: g.sandboxes}, nil
}

func (g guestSays) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: g.containers}, nil
}

const (
	uid      = "0c1b-uid"
	diskUsed = 8 << 20
)

// hostOf makes a proxy whose host knows the sandboxes' memory (4 MiB, of which 1 MiB can be given up) and disks (8 MiB).
func hostOf(t *testing.T, g guestSays) *proxy {
	t.Helper()
	dir := t.TempDir()
	f := &proxy{upstream: g, streams: &streams{guests: dialer{filepath.Join(dir, "vm")}}, figures: figures{cgroups: dir, root: "/nodeless", scratch: dir}}
	pod := filepath.Join(dir, "nodeless", "kubepods", "burstable", "pod"+uid)
	write(t, filepath.Join(pod, "memory.current"), "4194304\n")
	write(t, filepath.Join(pod, "memory.stat"), "anon 2097152\nfile 1048576\ninactive_file 1048576\n")
	for _, s := range g.sandboxes {
		write(t, filepath.Join(dir, "vm", s.Id, contract.AgentSocket), "")
		write(t, filepath.Join(dir, s.Id+".ext4"), string(slices.Repeat([]byte{1}, diskUsed)))
	}
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sandboxNamed(id string, annotations map[string]string) *cri.PodSandbox {
	return &cri.PodSandbox{Id: id, Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: uid}, Annotations: annotations}
}

func containerNamed(name string) *cri.Container {
	return &cri.Container{Id: "id-" + name, PodSandboxId: "s", Metadata: &cri.ContainerMetadata{Name: name}}
}

// TestAttackFiguresOfAGuest: a guest that understates its memory, or gives no figures at all, is ranked for eviction by what the host
// counts.
func TestAttackFiguresOfAGuest(t *testing.T) {
	lie := &cri.PodSandboxStats{
		Attributes: attributes(sandboxNamed("s", nil)),
		Linux: &cri.LinuxPodSandboxStats{Memory: &cri.MemoryUsage{WorkingSetBytes: number(1)}, Containers: []*cri.ContainerStats{{
			Attributes: &cri.ContainerAttributes{Id: "id-app", Metadata: &cri.ContainerMetadata{Name: "app"}}, Memory: &cri.MemoryUsage{WorkingSetBytes: number(1)},
		}}},
	}
	for what, said := range map[string][]*cri.PodSandboxStats{
		"a guest understates its memory and its disk": {lie},
		"a guest gives no figures":                    nil,
		"a guest gives none of its containers":        {{Attributes: attributes(sandboxNamed("s", nil)), Linux: &cri.LinuxPodSandboxStats{}}},
	} {
		for _, threat := range []string{"T7", "T16"} {
			attack.Try(t, threat, what, func(t *testing.T) attack.Outcome {
				f := hostOf(t, guestSays{stats: said, sandboxes: []*cri.PodSandbox{sandboxNamed("s", nil)}, containers: []*cri.Container{containerNamed("app")}})
				resp, err := f.ListPodSandboxStats(t.Context(), &cri.ListPodSandboxStatsRequest{})
				if err != nil || len(resp.Stats) != 1 || len(resp.Stats[0].Linux.Containers) != 1 {
					t.Fatalf("figures: %v, %v", resp, err)
				}
				linux := resp.Stats[0].Linux
				if got := linux.Memory.GetWorkingSetBytes().GetValue(); threat == "T16" && got != 3<<20 {
					t.Errorf("the Pod's working set is %d, want the host's count", got)
				}
				if got := linux.Containers[0].GetWritableLayer().GetUsedBytes().GetValue(); threat == "T7" && got < diskUsed {
					t.Errorf("the Pod's disk takes %d, want the host's count", got)
				}
				return attack.Contained
			})
		}
	}
}

func TestOnePodsFiguresAreTheHostsAsWell(t *testing.T) {
	stats := &cri.PodSandboxStats{Attributes: attributes(sandboxNamed("s", nil))}
	f := hostOf(t, guestSays{stats: []*cri.PodSandboxStats{stats}, sandboxes: []*cri.PodSandbox{sandboxNamed("s", nil)}})
	resp, err := f.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: "s"})
	if err != nil || resp.Stats.Linux.Memory.GetRssBytes().GetValue() != 2<<20 || resp.Stats.Linux.Memory.GetUsageBytes().GetValue() != 4<<20 {
		t.Errorf("figures: %v, %v", resp, err)
	}
	f.streams.guests.dir = t.TempDir() // no microVM any more
	if resp, err := f.ListPodSandboxStats(t.Context(), &cri.ListPodSandboxStatsRequest{}); err != nil || len(resp.Stats) != 1 {
		t.Errorf("without a microVM: %v, %v", resp, err)
	}
}

func TestMemoryOfOlderCgroups(t *testing.T) {
	dir := t.TempDir()
	pod := filepath.Join(dir, "memory", "nodeless", "kubepods", "pod"+uid)
	write(t, filepath.Join(pod, "memory.usage_in_bytes"), "1000")
	write(t, filepath.Join(pod, "memory.stat"), "rss 1\ntotal_rss 300\ntotal_inactive_file 5000\n")
	got, err := figures{cgroups: dir, root: "/nodeless"}.memory(uid)
	if want := (memory{usage: 1000, workingSet: 0, rss: 300}); err != nil || got != want {
		t.Errorf("memory = %+v, %v, want %+v", got, err, want)
	}
	if _, err := (figures{cgroups: dir, root: "/nodeless"}).memory("../../x"); err == nil {
		t.Error("a path was taken for a UID")
	}
	if _, err := (figures{scratch: dir}).disk("../x"); err == nil {
		t.Error("a path was taken for a sandbox's id")
	}
}

func TestShares(t *testing.T) {
	running := []*cri.Container{containerNamed("app"), containerNamed("log"), containerNamed("free")}
	tests := []struct {
		name, limits string
		running      []*cri.Container
		want         []uint64
	}{
		{name: "in the proportion of the limits", limits: "app=300,log=100", running: running, want: []uint64{75, 25, 0}},
		{name: "to the only one that has a limit", limits: "log=100", running: running, want: []uint64{0, 100, 0}},
		{name: "among those that run", limits: "app=300,log=100", running: running[1:], want: []uint64{100, 0}},
		{name: "to the first where none has a limit", limits: "app=300", running: running[1:], want: []uint64{100, 0}},
		{name: "what is no limit counts for none", limits: "app=x,log=-1,free=", running: running, want: []uint64{100, 0, 0}},
		{name: "nothing runs", limits: api.DiskShares, want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := shares(tt.limits, tt.running, 100); !slices.Equal(got, tt.want) {
				t.Errorf("shares = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestFiguresOfNoSandbox: the kubelet asks at its start whether there are figures of sandboxes. The question does not get as far as
// containerd, which logs it as an error, and is not answered by a no.
func TestFiguresOfNoSandbox(t *testing.T) {
	f := hostOf(t, guestSays{}) // which cannot answer
	if _, err := f.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("figures of no sandbox: %v", err)
	}
}
