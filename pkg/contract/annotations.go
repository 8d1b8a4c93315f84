package contract

// PIDTarget is the annotation on a container that names the container whose PID namespace it shares. pkg/worker/cri writes it,
// containerd and Kata hand it through, the guest reads it.
const PIDTarget = ContainerAnnotations + "pid-target"

// Prefixes by which containerd's settings (pkg/worker/containerd) name what it hands on to the shim.
const (
	ContainerAnnotations = "io.nodeless."  // those of containers
	PodAnnotations       = "nodeless.dev/" // those of Pods
)

// Annotations on a Pod that its admission writes (pkg/server/apiserver). containerd and Kata hand them on in the sandbox's config.json. The
// record is that of the microVM's life (pkg/sandboxrecord), which nodeless-vmm writes.
const (
	Spec       = PodAnnotations + "spec"        // what the Pod gets: "4C8Gi". For the shim, the record, pkg/worker/cri
	SpecType   = PodAnnotations + "spec-type"   // its type of CPU or model of GPU: "intel". For the record, pkg/worker/cri
	ChargeType = PodAnnotations + "charge-type" // how it is paid for: "SPOT". For the record
	Workload   = PodAnnotations + "workload"    // kind and name of what made it: "Deployment/web". For the record
	RootDisk   = PodAnnotations + "root-disk"   // GiB of the writable disk, where it is not the usual one: "50". For nodeless-vmm
	Sizing     = PodAnnotations + "sizing"      // what the microVM follows if not the spec: a value of below. For the shim, pkg/worker/cri
)

// Values of Sizing, on Pods that keep their own figures.
const (
	SizingLimits = "limits" // each container has a limit on its memory: the microVM is as large as those add up to
	SizingOpen   = "open"   // one has none: the microVM has at least its spec's memory
	SizingWhole  = "whole"  // the Pod has limits as a whole: the microVM is as large as those
)

// ResourceTag is an annotation of TKE Serverless: a JSON object of names and values for the bill. Users write it. For the record.
const ResourceTag = "eks.tke.cloud.tencent.com/resource-tag"

// CRISandbox begins the annotations in which containerd says of a sandbox whose it is and how large: "namespace", "cpu-quota". The shim and
// nodeless-vmm read them.
const CRISandbox = "io.kubernetes.cri.sandbox-"
