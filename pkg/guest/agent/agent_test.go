package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodeless/nodeless/pkg/guest/container"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

func TestRedirectMounts(t *testing.T) {
	mounts := []specs.Mount{
		{Destination: "/a", Source: "/shared/vol", Type: "local", Options: []string{"rw"}},
		{Destination: "/b", Source: "/shared/vol/sub", Type: "bind"},
		{Destination: "/c", Source: "/shared/volume", Type: "bind"},
		{Destination: "/d", Source: "/elsewhere", Type: "local"},
	}
	redirectMounts(mounts, map[string]string{"/shared/vol": "/disk/vol"})
	want := []specs.Mount{
		{Destination: "/a", Source: "/disk/vol", Type: "bind", Options: []string{"rw", "rbind"}},
		{Destination: "/b", Source: "/disk/vol/sub", Type: "bind"},
		{Destination: "/c", Source: "/shared/volume", Type: "bind"},
		{Destination: "/d", Source: "/elsewhere", Type: "bind", Options: []string{"rbind"}},
	}
	if diff := cmp.Diff(want, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0-1,3,6-7": 5} {
		if got, err := countCPUs(list); got != want || err != nil {
			t.Errorf("countCPUs(%q) = %d, %v, want %d", list, got, err, want)
		}
	}
	for _, list := range []string{"", "a", "0-"} {
		if got, err := countCPUs(list); err == nil {
			t.Errorf("countCPUs(%q) = %d, want an error", list, got)
		}
	}
}

func TestProcessorsThatAreUpAlreadyAreNotWaitedFor(t *testing.T) {
	a := New(Config{}, fstest.MapFS{"devices/system/cpu/online": {Data: []byte("0-1\n")}})
	if _, err := a.OnlineCPUMem(t.Context(), &pb.OnlineCPUMemRequest{NbCpus: 2, CpuOnly: true}); err != nil {
		t.Errorf("OnlineCPUMem = %v", err)
	}
}

func TestGuestDevicesNeverTakesAHostNumber(t *testing.T) {
	number := func(path string) (string, int64, int64) {
		switch path {
		case "/dev/fuse":
			return "c", 10, 229
		case "/dev/vda":
			return "b", 254, 0 // the disk of all containers
		}
		return "", 0, 0
	}
	in := []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 99, Minor: 9},
		{Path: "/dev/vda", Type: "b", Major: 254, Minor: 0},
		{Path: "/dev/absent", Type: "c", Major: 254, Minor: 0},
		{Path: "/dev/xvda", Type: "b", Major: 8, Minor: 0},
		{Path: "/dev/pipe", Type: "p"},
	}
	got := guestDevices(in, []*pb.Device{{ContainerPath: "/dev/xvda"}}, number)
	want := []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/xvda", Type: "b", Major: 8, Minor: 0}, // its number comes with the device
		{Path: "/dev/pipe", Type: "p"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestErrorsCarryTheProtocolsCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("x: %w", container.ErrNotFound), codes.NotFound},
		{fmt.Errorf("x: %w", mount.ErrUnsupported), codes.Unimplemented},
		{io.EOF, codes.OutOfRange},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("anything"), codes.Internal},
		{missing("GetMetrics"), codes.Unimplemented},
	} {
		if got := status.Code(withCode(tc.err)); got != tc.want {
			t.Errorf("code of %v = %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestIsPause(t *testing.T) {
	mark := "io.kubernetes.cri.container-type"
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		want        bool
	}{
		{name: "pause container", annotations: map[string]string{mark: "sandbox"}, want: true},
		{name: "container of a Pod", annotations: map[string]string{mark: "container"}},
		{name: "single container without CRI", annotations: nil},
	} {
		if got := isPause(&specs.Spec{Annotations: tc.annotations}); got != tc.want {
			t.Errorf("%s: isPause = %v", tc.name, got)
		}
	}
}

// A removal that comes while the container is being created ends what that waits for, and returns when nothing is left of it.
func TestRemovalDuringCreation(t *testing.T) {
	a := New(Config{Containers: &container.Manager{}}, fstest.MapFS{})
	ctx, created, err := a.creating(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.creating(t.Context(), "c"); !errors.Is(err, container.ErrExists) {
		t.Errorf("creation of what is being created = %v, want ErrExists", err)
	}
	removed := make(chan error)
	go func() {
		_, err := a.RemoveContainer(t.Context(), &pb.RemoveContainerRequest{ContainerId: "c"})
		removed <- err
	}()
	<-ctx.Done()
	select {
	case err := <-removed:
		t.Fatalf("the removal returned before the creation: %v", err)
	default:
	}
	if err := created(); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("the end of the creation = %v, want ErrNotFound", err)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if _, created, err := a.creating(t.Context(), "c"); err != nil || created() != nil {
		t.Errorf("creation afterwards = %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := a.creating(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	if err := a.unwant(gone, "d"); !errors.Is(err, context.Canceled) {
		t.Errorf("a removal that nobody waits for = %v, want Canceled", err)
	}
}

func TestFlipChangesAsManyAsAreAskedFor(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i, now := range []string{"1", "0", "0", "0"} {
		files = append(files, filepath.Join(dir, strconv.Itoa(i)))
		if err := os.WriteFile(files[i], []byte(now+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		want  string
		limit int
		done  int
		after string
	}{{"1", 2, 2, "1110"}, {"1", 0, 0, "1110"}, {"0", 1, 1, "0110"}, {"1", -1, 2, "1111"}, {"1", 3, 0, "1111"}} {
		done, err := flip(files, tt.want, tt.limit)
		after := ""
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			after += strings.TrimSpace(string(raw))
		}
		if err != nil || done != tt.done || after != tt.after {
			t.Errorf("flip(%s, %d) = %d, %v and leaves %s; want %d and %s", tt.want, tt.limit, done, err, after, tt.done, tt.after)
		}
	}
}
