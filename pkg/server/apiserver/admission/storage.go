package admission

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// StorageName is how --disable-admission-plugins knows the plugin that bounds what Pods may take of their host's disk.
const StorageName = "PodStorage"

const (
	gib = 1 << 30
	// logsOfContainer is what the kubelet lets a container's log grow to (pkg/worker/kubelet), and a little more.
	logsOfContainer = 64 << 20
	// smallRequest is what a Pod asks for by itself: about what its writable disk takes when it is new. With more, a host with a small disk
	// would take few Pods although most never write much.
	smallRequest = 64 << 20
)

// storage gives every Pod a limit on ephemeral storage: its writable disk, its emptyDirs and its logs. They are files on the disk that all
// Pods and the server share. The kubelet evicts the Pod that is over its limit, and quotas count limits.
//
// What an author says stays. An emptyDir without a size limit gets one, the size of the Pod's writable disk. Where Pods keep their own
// figures, containers get no limit: what the Pod may take is then bounded by the size of its writable disk, those of its emptyDirs, and the
// kubelet's bound of its logs.
type storage struct {
	*admission.Handler
	native bool // Pods keep their own figures
}

var (
	_ admission.MutationInterface   = (*storage)(nil)
	_ admission.ValidationInterface = (*storage)(nil)
)

// Admit is called for each new object.
func (s *storage) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := requestedPod(a)
	if err != nil || pod == nil || mirror(a, pod) || len(pod.Spec.Containers) == 0 {
		return err // the API refuses a Pod without containers
	}
	disk := rootDisk(pod)
	for i := range pod.Spec.Volumes {
		if dir := pod.Spec.Volumes[i].EmptyDir; onDisk(dir) && unbounded(dir) {
			dir.SizeLimit = resource.NewQuantity(disk, resource.BinarySI)
		}
	}
	if !limited(pod) && !s.native {
		first := &pod.Spec.Containers[0].Resources
		total := max(inAll(pod, disk), first.Requests.StorageEphemeral().Value())
		set(&first.Limits, total)
		if _, said := first.Requests[core.ResourceEphemeralStorage]; !said {
			set(&first.Requests, smallRequest) // the API takes the limit for it otherwise
		}
	}
	share(pod)
	return nil
}

// Validate is called for each new object once it is as it will be: after everybody who may change it.
func (s *storage) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := requestedPod(a)
	if err != nil || pod == nil || mirror(a, pod) || len(pod.Spec.Containers) == 0 {
		return err
	}
	if !limited(pod) && !s.native {
		return admission.NewForbidden(a, field.Required(field.NewPath("spec", "containers").Index(0).Child("resources", "limits").Key("ephemeral-storage"),
			"somebody has removed the limit that every Pod has"))
	}
	for i := range pod.Spec.Volumes {
		if dir := pod.Spec.Volumes[i].EmptyDir; onDisk(dir) && unbounded(dir) {
			return admission.NewForbidden(a, field.Required(field.NewPath("spec", "volumes").Index(i).Child("emptyDir", "sizeLimit"),
				"somebody has removed the limit that every emptyDir has"))
		}
	}
	return nil
}

// inAll is what a Pod can write: to its writable disk, to its emptyDirs, which have limits, and as logs.
func inAll(pod *core.Pod, disk int64) int64 {
	total := disk
	for i := range pod.Spec.Volumes {
		if dir := pod.Spec.Volumes[i].EmptyDir; onDisk(dir) && !unbounded(dir) {
			total = add(total, dir.SizeLimit.Value())
		}
	}
	return add(total, logsOfContainer*int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers)))
}

// forgetStorage takes the limits out of an exported Pod that this plugin gave it: they would hold for another writable disk as well.
func forgetStorage(pod *core.Pod) {
	if pod.Annotations[api.DiskShares] == "" || len(pod.Spec.Containers) == 0 {
		return
	}
	disk, r := rootDisk(pod), &pod.Spec.Containers[0].Resources
	if r.Limits.StorageEphemeral().Value() == inAll(pod, disk) {
		delete(r.Limits, core.ResourceEphemeralStorage)
		if r.Requests.StorageEphemeral().Value() == smallRequest {
			delete(r.Requests, core.ResourceEphemeralStorage)
		}
	}
	for i := range pod.Spec.Volumes {
		if dir := pod.Spec.Volumes[i].EmptyDir; onDisk(dir) && dir.SizeLimit != nil && dir.SizeLimit.Value() == disk {
			dir.SizeLimit = nil
		}
	}
}

// rootDisk is the size of a Pod's writable disk.
func rootDisk(pod *core.Pod) int64 {
	if n, err := strconv.ParseInt(pod.Annotations[api.RootDisk], 10, 64); err == nil && n > podsize.FreeRootDisk {
		return n * gib
	}
	return podsize.FreeRootDisk * gib
}

// onDisk tells whether there is such a volume and it lies on the host's disk, not in the Pod's memory.
func onDisk(dir *core.EmptyDirVolumeSource) bool {
	return dir != nil && dir.Medium == core.StorageMediumDefault
}

func unbounded(dir *core.EmptyDirVolumeSource) bool {
	return dir.SizeLimit == nil || dir.SizeLimit.Sign() <= 0
}

// limited tells whether the kubelet finds a limit in the Pod: the sum of those that its containers have.
func limited(pod *core.Pod) bool {
	for _, containers := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range containers {
			if c.Resources.Limits.StorageEphemeral().Sign() > 0 {
				return true
			}
		}
	}
	return false
}

func set(list *core.ResourceList, bytes int64) {
	if *list == nil {
		*list = core.ResourceList{}
	}
	(*list)[core.ResourceEphemeralStorage] = *resource.NewQuantity(bytes, resource.BinarySI)
}

// add is a sum that stays a number: authors write limits of any size.
func add(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// share writes down by what limits the use of the Pod's one disk is divided among its containers (pkg/worker/cri).
func share(pod *core.Pod) {
	var parts []string
	for _, containers := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range containers {
			if limit := c.Resources.Limits.StorageEphemeral(); limit.Sign() > 0 {
				parts = append(parts, fmt.Sprintf("%s=%d", c.Name, limit.Value()))
			}
		}
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[api.DiskShares] = strings.Join(parts, ",")
}
