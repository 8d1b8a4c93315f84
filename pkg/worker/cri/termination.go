package cri

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
)

// terminationPath is the annotation in which the kubelet notes where in a container its last message is.
const terminationPath = "io.kubernetes.container.terminationMessagePath"

// ContainerStatus leaves out mounts that the kubelet must not read. It takes a container's last message from the first mount at the place
// for it, whatever that is, and opens it as it is: a volume's FIFO there, which a guest can make, would hold up the kubelet's look at
// all Pods for ever, and with it the Node. The file that the kubelet itself has made stays.
func (f *front) ContainerStatus(ctx context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	resp, err := f.upstream.ContainerStatus(outgoing(ctx), req)
	if err != nil {
		return nil, err
	}
	keepOwnMessages(f.pods, resp.GetStatus())
	return resp, nil
}

// keepOwnMessages removes mounts at the place of the last message that are not files of the kubelet's for this container, below pods.
func keepOwnMessages(pods string, status *cri.ContainerStatus) {
	place := status.GetAnnotations()[terminationPath]
	if place == "" {
		return
	}
	labels := status.GetLabels()
	uid, name := labels[types.KubernetesPodUIDLabel], labels[types.KubernetesContainerNameLabel]
	own := filepath.Join(pods, uid, "containers", name) + "/"
	status.Mounts = slices.DeleteFunc(status.Mounts, func(m *cri.Mount) bool {
		if filepath.Join("/", m.ContainerPath) != filepath.Join("/", place) {
			return false
		}
		rest, ok := strings.CutPrefix(m.HostPath, own)
		return !ok || uid == "" || name == "" || strings.Contains(rest, "/")
	})
}
