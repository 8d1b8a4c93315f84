package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
)

const (
	// terminationPath is the annotation in which the kubelet notes where in a container its last message is.
	terminationPath = "io.kubernetes.container.terminationMessagePath"
	// longestMessage is how much of it the kubelet takes, in bytes, from its end.
	longestMessage = 4096
)

// lastWords has the last messages of containers where no guest can write. The kubelet takes a message from the first mount at the place
// for it. It opens that, whatever it is, and reads on to its end. A guest can make a FIFO of a volume there, which would hold up the
// kubelet's look at all Pods for ever. It can also still change the kubelet's own file, which may have a terabyte of nothing behind what
// was measured.
type lastWords struct {
	pods string // the kubelet's folder of Pods, in which its own files for messages are
	dir  string // copies, one for a container that has ended
}

// newLastWords begins without copies: they are made again when the kubelet asks.
func newLastWords(pods, dir string) (lastWords, error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return lastWords{}, fmt.Errorf("make folder of containers' last messages: %w", err)
	}
	return lastWords{pods, dir}, nil
}

// ContainerStatus shows the kubelet a copy of the container's last message, no other mount at its place, and few words about its end.
func (f *proxy) ContainerStatus(ctx context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	resp, err := f.upstream.ContainerStatus(outgoing(ctx), req)
	if err != nil {
		return nil, err
	}
	f.messages.replace(resp.GetStatus())
	inFewWords(resp.GetStatus())
	return resp, nil
}

// RemoveContainer forgets the copy as well.
func (f *proxy) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	resp, err := f.upstream.RemoveContainer(outgoing(ctx), req)
	if err == nil && validID.MatchString(req.GetContainerId()) {
		_ = os.Remove(filepath.Join(f.messages.dir, req.GetContainerId())) // the next start removes what is left
	}
	return resp, err
}

// replace puts the copy in place of the file and takes other mounts at its place away.
func (m lastWords) replace(status *cri.ContainerStatus) {
	place := status.GetAnnotations()[terminationPath]
	if place == "" {
		return
	}
	labels := status.GetLabels()
	uid, name := labels[types.KubernetesPodUIDLabel], labels[types.KubernetesContainerNameLabel]
	own := filepath.Join(m.pods, uid, "containers", name) + "/"
	status.Mounts = slices.DeleteFunc(status.Mounts, func(mount *cri.Mount) bool {
		if filepath.Join("/", mount.ContainerPath) != filepath.Join("/", place) {
			return false
		}
		rest, ok := strings.CutPrefix(mount.HostPath, own)
		if !ok || uid == "" || name == "" || strings.Contains(rest, "/") || status.State != cri.ContainerState_CONTAINER_EXITED {
			return true
		}
		copied, err := m.copy(status.Id, mount.HostPath)
		mount.HostPath = copied
		return err != nil
	})
}

// copy makes the copy of a message, which no guest sees, and names it.
func (m lastWords) copy(id, from string) (string, error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("copy last message of container %q: that is no id", id)
	}
	text, err := readMessage(from)
	if err != nil {
		return "", err
	}
	to := filepath.Join(m.dir, id)
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, text) {
		return to, nil
	}
	return to, os.WriteFile(to, text, 0o600)
}

// readMessage reads the end of a message, in one read, if it is a file.
func readMessage(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read last message %s: %w", path, errors.ErrUnsupported)
	}
	text := make([]byte, longestMessage)
	n, err := f.ReadAt(text, max(0, info.Size()-longestMessage))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return text[:n], err
}
