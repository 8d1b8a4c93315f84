// Package api holds the names that parts of nodeless in different processes agree on. Those that reach the shim, nodeless-vmm and the guest
// are pkg/contract's; the ones of them that the control plane writes have their names here as well.
package api

import "github.com/nodeless/nodeless/pkg/contract"

// PodNamespaceHeader is what goes with a call of the runtime service: the namespace of the Pod that it is about. pkg/worker/cri sets it,
// whoever the caller is; pkg/worker/containerd/tenant reads it.
const PodNamespaceHeader = "nodeless-pod-namespace"

// EKS begins the annotations that TKE Serverless knows (its pages call it EKS still).
const EKS = "eks.tke.cloud.tencent.com/"

// Annotations on a Pod that size it.
const (
	CPU             = EKS + "cpu"               // cores of the spec, with Memory: "0.25"
	Memory          = EKS + "mem"               // memory of the spec, with CPU: "2Gi"
	CPUType         = EKS + "cpu-type"          // types of CPU, the preferred first: "amd,intel"
	GPUType         = EKS + "gpu-type"          // models of GPU, the preferred first: "1/4*T4,T4"
	GPUCount        = EKS + "gpu-count"         // GPUs, in place of the containers' requests: "1"
	SpecAutoUpgrade = EKS + "spec-auto-upgrade" // "true": the next larger spec where there is no room
	RootDiskSize    = EKS + "root-cbs-size"     // GiB of the writable disk: "50"
)

// Annotations on a Pod that say how it is paid for.
const (
	SpotPod     = EKS + "spot-pod"     // "true": cheap, and the first to go
	ResourceTag = contract.ResourceTag // a JSON object of names and values, for the bill
)

// Own begins the annotations of nodeless. Those below are written at a Pod's admission and belong to the cluster: nobody else can
// set or change them, since the Pod is scheduled and billed by them. Kata hands them on, so that a microVM's record (pkg/meter) has them.
const (
	Own        = contract.PodAnnotations
	Spec       = contract.Spec       // what the Pod gets, as spec.Size writes it: "4C8Gi"
	SpecType   = contract.SpecType   // its type of CPU or model of GPU: "intel"
	ChargeType = contract.ChargeType // how it is paid for, as bill.Charge has it: "SPOT"
	Workload   = contract.Workload   // kind and name of what made it: "Deployment/web"
	RootDisk   = contract.RootDisk   // GiB of the writable disk, where it is not the usual one: "50"
	DiskShares = Own + "disk-shares" // bytes of ephemeral storage that each container may use: "app=1073741824,log=536870912"
	AskedWhole = Own + "asked-whole" // "true" when its author gave the Pod as a whole resources
	Sizing     = contract.Sizing     // what the microVM follows where that is not the spec: a value of below
)

// Values of Sizing, on Pods that keep their own figures.
const (
	SizingLimits = contract.SizingLimits // each container has a limit on its memory: the microVM is as large as those add up to
	SizingOpen   = contract.SizingOpen   // one has none: the microVM has at least its spec's memory
	SizingWhole  = contract.SizingWhole  // the Pod has limits as a whole: the microVM is as large as those
)

// CPUTypeLabel is on each Node: the type of its CPUs, as cpu-type has it.
const CPUTypeLabel = Own + "cpu-type"

// Values of ChargeType, by the names of the cloud's PodChargeInfo.
const (
	ChargePostPaid = "POSTPAID_BY_HOUR"
	ChargeSpot     = "SPOT"
)

// SpotClass is the PriorityClass of spot Pods: below all others, and never pushing anybody out.
const (
	SpotClass    = "nodeless-spot"
	SpotPriority = -1000
)

// InterruptionAt is on a spot Pod that was given notice: when it goes, by RFC 3339.
const InterruptionAt = Own + "interruption-at"

// What Nodes carry, as super nodes of TKE Serverless do.
const (
	InstanceTypeLabel     = "node.kubernetes.io/instance-type" // "eklet"
	InstanceType          = "eklet"
	SubnetID              = EKS + "subnet-id"          // annotation: "subnet-" and the end of the Node's name
	AvailableIPCountLabel = EKS + "available-ip-count" // addresses of the Node's range that no Pod has
	HostAnnotation        = Own + "host"               // the host behind the Node, for its operators: "name, address"
)
