package cri

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/tests/attack"
)

func (u *upstream) ContainerStatus(context.Context, *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	return &cri.ContainerStatusResponse{Status: u.status}, nil
}

func (u *upstream) RemoveContainer(context.Context, *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	return &cri.RemoveContainerResponse{}, u.fails
}

// ended is a container that has ended, with the mounts at the place of its last message.
func ended(pods string, from ...string) *cri.ContainerStatus {
	status := &cri.ContainerStatus{
		Id: "c0ffee", State: cri.ContainerState_CONTAINER_EXITED,
		Annotations: map[string]string{terminationPath: "/dev/termination-log"},
		Labels:      map[string]string{"io.kubernetes.pod.uid": "uid", "io.kubernetes.container.name": "main"},
		Mounts:      []*cri.Mount{{ContainerPath: "/data", HostPath: "/elsewhere"}},
	}
	for i, path := range from {
		status.Mounts = append(status.Mounts, &cri.Mount{ContainerPath: []string{"/dev/termination-log", "/dev//termination-log/"}[i%2], HostPath: filepath.Join(pods, path)})
	}
	return status
}

func TestAttackALastMessage(t *testing.T) {
	client, up, cfg := start(t)
	own := filepath.Join(cfg.Pods, "uid", "containers", "main")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	// shown are the mounts that the kubelet gets for a container.
	shown := func(t *testing.T, status *cri.ContainerStatus) (left []string) {
		t.Helper()
		up.status = status
		resp, err := client.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: "c0ffee"})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range resp.Status.Mounts[1:] {
			left = append(left, m.HostPath)
		}
		return left
	}
	attack.Try(t, "T4", "volumes where the last message is", func(t *testing.T) attack.Outcome {
		if left := shown(t, ended(cfg.Pods, "uid/volume-subpaths/v/main/0", "other/containers/main/0123", "uid/volumes/kubernetes.io~empty-dir/v")); len(left) > 0 {
			t.Errorf("the kubelet would read %q", left)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "a FIFO where the last message is", func(t *testing.T) attack.Outcome {
		if err := unix.Mkfifo(filepath.Join(own, "fifo"), 0o666); err != nil {
			t.Fatal(err)
		}
		if left := shown(t, ended(cfg.Pods, "uid/containers/main/fifo")); len(left) > 0 {
			t.Errorf("the kubelet would read %q", left)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "a last message that grows to a terabyte while it is read", func(t *testing.T) attack.Outcome {
		file := filepath.Join(own, "0123")
		if err := os.WriteFile(file, []byte(strings.Repeat("x", 10_000)+"end"), 0o666); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(cfg.Messages, "c0ffee")
		if diff := cmp.Diff([]string{copied}, shown(t, ended(cfg.Pods, "uid/containers/main/0123"))); diff != "" {
			t.Fatalf("mounts (-want +got):\n%s", diff)
		}
		if err := os.Truncate(file, 1<<40); err != nil { // the kubelet has measured, and now reads on to the end
			t.Skip("skipped: no file of a terabyte here: ", err)
		}
		if text, err := os.ReadFile(copied); err != nil || len(text) != longestMessage || !strings.HasSuffix(string(text), "xend") {
			t.Errorf("the kubelet reads %d bytes, %v", len(text), err)
		}
		shown(t, ended(cfg.Pods, "uid/containers/main/0123"))
		if text, err := os.ReadFile(copied); err != nil || len(text) != longestMessage {
			t.Errorf("the kubelet reads %d bytes, %v", len(text), err)
		}
		if _, err := client.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: "c0ffee"}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(copied); !os.IsNotExist(err) {
			t.Errorf("the copy of a container that is gone: %v", err)
		}
		return attack.Contained
	})
}

// TestAttackALastMessageWithoutEnd: what is written there counts as the Pod's.
func TestAttackALastMessageWithoutEnd(t *testing.T) {
	attack.Try(t, "T4", "a last message of 8 MiB", func(t *testing.T) attack.Outcome {
		pods := t.TempDir()
		dir := filepath.Join(pods, "0f0f", "containers", "main")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "0123"), make([]byte, 8<<20), 0o666); err != nil {
			t.Fatal(err)
		}
		if got := (figures{pods: pods}).messages("0f0f"); got < 8<<20 {
			t.Errorf("it counts %d bytes", got)
		}
		if got := (figures{pods: pods}).messages("../" + filepath.Base(pods) + "/0f0f"); got != 0 {
			t.Errorf("a path in place of a UID counts %d bytes", got)
		}
		return attack.Contained
	})
}
