package cri

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/tests/attack"
)

func (u *upstream) ContainerStatus(context.Context, *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	mount := func(at, from string) *cri.Mount { return &cri.Mount{ContainerPath: at, HostPath: from} }
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Annotations: map[string]string{terminationPath: "/dev/termination-log"},
		Labels:      map[string]string{"io.kubernetes.pod.uid": "uid", "io.kubernetes.container.name": "main"},
		Mounts: []*cri.Mount{
			mount("/data", "/pods/uid/volumes/kubernetes.io~empty-dir/v"),
			mount("/dev/termination-log", "/pods/uid/volume-subpaths/v/main/0"),
			mount("/dev//termination-log", "/pods/other/containers/main/0123"),
			mount("/dev/termination-log/", "/pods/uid/containers/main/../../volumes/v"),
			mount("/dev/termination-log", "/pods/uid/containers/main/01234567"),
		},
	}}, nil
}

func TestAttackAVolumeWhereTheLastMessageIs(t *testing.T) {
	client, _, _ := start(t)
	attack.Try(t, "T4", "a volume is mounted where the kubelet reads a container's last message", func(t *testing.T) attack.Outcome {
		resp, err := client.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: "c"})
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, m := range resp.Status.Mounts {
			left = append(left, m.HostPath)
		}
		if diff := cmp.Diff([]string{"/pods/uid/volumes/kubernetes.io~empty-dir/v", "/pods/uid/containers/main/01234567"}, left); diff != "" {
			t.Errorf("mounts that the kubelet sees (-want +got):\n%s", diff)
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
