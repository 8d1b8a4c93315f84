package ended

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// container is one of namespace that ended at a time, in the sandbox of the same name unless it has another.
func container(namespace string, at int64, state cri.ContainerState, sandbox string) *cri.Container {
	return &cri.Container{Id: fmt.Sprint(namespace, at), PodSandboxId: sandbox, State: state, CreatedAt: at, Labels: map[string]string{namespaceLabel: namespace}}
}

func exited(namespace string, at int64) *cri.Container {
	return container(namespace, at, cri.ContainerState_CONTAINER_EXITED, "ended")
}

// TestTooMany: who has the most loses the oldest. A container in a Pod that runs is left, since the kubelet would run it once more.
func TestTooMany(t *testing.T) {
	mallory := []*cri.Container{exited("mallory", 11), exited("mallory", 10), exited("mallory", 12)}
	for _, tt := range []struct {
		name string
		have []*cri.Container
		most int
		want []string
	}{
		{"nothing", nil, 0, nil},
		{"no more than may be", mallory, 3, nil},
		{"the oldest", mallory, 1, []string{"mallory10", "mallory11"}},
		{"not the neighbour's, which is older", append([]*cri.Container{exited("alice", 1)}, mallory...), 2, []string{"mallory10", "mallory11"}},
		{"of both in turn when they have alike", []*cri.Container{exited("alice", 1), exited("alice", 2), exited("bob", 3), exited("bob", 4)}, 2, []string{"alice1", "bob3"}},
		{"none of a Pod that runs", append(slices.Clone(mallory), container("alice", 1, cri.ContainerState_CONTAINER_EXITED, "runs")), 3, nil},
		{"none that runs, or is made", []*cri.Container{container("a", 1, cri.ContainerState_CONTAINER_RUNNING, "ended"), container("a", 2, cri.ContainerState_CONTAINER_CREATED, "ended")}, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sandboxes := []*cri.PodSandbox{{Id: "runs", State: cri.PodSandboxState_SANDBOX_READY}, {Id: "ended", State: cri.PodSandboxState_SANDBOX_NOTREADY}}
			if got := tooMany(tt.have, running(sandboxes), tt.most); !slices.Equal(got, tt.want) {
				t.Errorf("removes %v, want %v", got, tt.want)
			}
		})
	}
}

// runtime is a container runtime with containers that have ended.
type runtime struct {
	cri.RuntimeServiceClient
	logs    string
	have    []*cri.Container
	gone    string // the kubelet removes it meanwhile
	removed []string
}

func (r *runtime) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: r.have}, nil
}

func (r *runtime) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest, ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{}, nil
}

func (r *runtime) ContainerStatus(_ context.Context, in *cri.ContainerStatusRequest, _ ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	if in.ContainerId == r.gone {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{LogPath: filepath.Join(r.logs, in.ContainerId, "0.log")}}, nil
}

func (r *runtime) RemoveContainer(_ context.Context, in *cri.RemoveContainerRequest, _ ...grpc.CallOption) (*cri.RemoveContainerResponse, error) {
	r.removed = append(r.removed, in.ContainerId)
	return &cri.RemoveContainerResponse{}, nil
}

// TestLogsGoToo: a container's log goes with it, and what was rotated of it; that of the next attempt, beside it, stays.
func TestLogsGoToo(t *testing.T) {
	r := &runtime{logs: t.TempDir(), have: []*cri.Container{exited("a", 1), exited("a", 2), exited("a", 3)}}
	for _, name := range []string{"a1/0.log", "a1/0.log.20261130-080000.gz", "a1/0.log.20261130-090000", "a1/1.log", "a3/0.log"} {
		path := filepath.Join(r.logs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("word"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Config{Most: 1}, slog.New(slog.DiscardHandler))
	if err := c.look(t.Context(), r); err != nil { // a2 has no logs
		t.Fatal(err)
	}
	if want := []string{"a1", "a2"}; !slices.Equal(r.removed, want) {
		t.Errorf("removed %v, want %v", r.removed, want)
	}
	left, err := filepath.Glob(filepath.Join(r.logs, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(r.logs, "a1", "1.log"), filepath.Join(r.logs, "a3", "0.log")}; !slices.Equal(left, want) {
		t.Errorf("logs left: %v, want %v", left, want)
	}
}

// TestGoneAlready: that the kubelet was first with one is no fault, and the others go.
func TestGoneAlready(t *testing.T) {
	r := &runtime{logs: t.TempDir(), have: []*cri.Container{exited("a", 1), exited("a", 2), exited("a", 3)}, gone: "a1"}
	if err := New(Config{Most: 1}, slog.New(slog.DiscardHandler)).look(t.Context(), r); err != nil || !slices.Equal(r.removed, []string{"a2"}) {
		t.Errorf("removed %v, %v", r.removed, err)
	}
}
