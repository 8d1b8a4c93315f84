package rules

import (
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/api"
)

// Prefixes of keys beside api.EKS.
const (
	internalEKS = "internal." + api.EKS
	tke         = "tke.cloud.tencent.com/"
)

// Keys that this package acts on beside those of pkg/api.
const (
	dsInjection     = api.EKS + "ds-injection"
	dsInjectByLabel = api.EKS + "ds-inject-by-label"
	metricsPort     = api.EKS + "metrics-port"
)

// State is what becomes of an annotation here.
type State int

// Honoured keys do what they do in the cloud. Implied ones ask for what happens anyway. NotYet ones are answered with a
// warning, and Refused ones keep the Pod out.
const (
	Honoured State = iota
	Implied
	NotYet
	Refused
)

// String is the state as docs/annotations.md has it.
func (s State) String() string {
	switch s {
	case Honoured:
		return "honoured"
	case Implied:
		return "implied"
	case NotYet:
		return "not yet"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// Place is where a key belongs.
type Place int

// OnPod keys belong to a Pod or the template of Pods, OnDaemonSet keys to the template of a DaemonSet, and OnNode keys are
// written on nodes by the cloud.
const (
	OnPod Place = iota
	OnDaemonSet
	OnNode
)

// Key is one annotation of TKE Serverless.
type Key struct {
	Key    string // with its prefix
	State  State
	On     Place
	Here   string // what it does here, or what happens in its place: a part of a sentence
	Test   string // the test that shows it
	Anyway string // a value that asks for what happens anyway, though the key is not honoured
	Also   []string
}

// name is the key without its prefix.
func (k *Key) name() string { return k.Key[strings.IndexByte(k.Key, '/')+1:] }

// Tests that show more than one key.
const (
	testSized  = "TestAnnotationsDecide"
	testWarned = "TestKeysNotYetHonouredAreWarnedOf"
	testQuiet  = "TestImpliedKeysAreQuiet"
)

// table is every annotation that TKE Serverless knows, in the order of docs/annotations.md. Here of a key that is not
// yet honoured is the end of its warning, which has 256 characters.
var table = []Key{
	{Key: api.CPU, Here: "cores of the Pod's spec, in place of requests and limits; needs `mem`", Test: testSized, Also: []string{"cpus", "cpu-count", "vcpu", "cores"}},
	{Key: api.Memory, Here: "memory of the Pod's spec, in place of requests and limits; needs `cpu`", Test: testSized, Also: []string{"memory", "ram"}},
	{Key: api.CPUType, Here: "types of CPU, the preferred first", Test: testSized},
	{Key: api.GPUType, Here: "models of GPU, the preferred first; alone it means one GPU, and the Pod stays pending where no host has one", Test: testSized, Also: []string{"gpu-model"}},
	{Key: api.GPUCount, Here: "GPUs, in place of the containers' requests", Test: testSized, Also: []string{"gpu", "gpus", "gpu-num"}},
	{Key: api.RootDiskSize, Here: "GiB of the Pod's writable disk, 20 when not given, 2048 at most", Test: "TestRootDiskIsAsLargeAsAsked",
		Also: []string{"root-disk-size", "system-disk-size", "disk-size", "ephemeral-storage"}},
	{Key: api.EKS + "root-cbs-type", State: NotYet, Here: "the writable disk is a file on the host's own disk, of whatever kind that is", Test: testWarned},
	{Key: api.SpecAutoUpgrade, State: NotYet, Here: "a larger spec finds no room where a smaller one finds none: all specs come from the same hosts", Test: testWarned},
	{Key: api.SpotPod, Here: "the Pod is billed as spot, and is the first to go", Test: "TestSpotPodsGiveWay", Also: []string{"spot", "spot-instance"}},
	{Key: api.EKS + "spread-placement-group-id", State: NotYet, Here: "use topologySpreadConstraints or podAntiAffinity", Test: testWarned},
	{Key: api.ResourceTag, Here: "names and values for the bill: a JSON object of strings", Test: "TestTags", Also: []string{"tag", "tags", "resource-tags"}},
	{Key: api.EKS + "retain-ip", State: NotYet, Here: "a new Pod gets a new address; reach it by a Service", Test: testWarned, Anyway: "false", Also: []string{"static-ip", "fixed-ip", "fix-ip"}},
	{Key: api.EKS + "retain-ip-hours", State: NotYet, Here: "a Pod's address is free again once the Pod is gone", Test: testWarned},
	{Key: api.EKS + "pod-ip", State: NotYet, Here: "the Pod gets any free address of its host's range", Test: testWarned},
	{Key: api.EKS + "eip-attributes", State: NotYet, Here: "the Pod has no public address; publish it by a Service", Test: testWarned, Also: []string{"eip"}},
	{Key: api.EKS + "eip-claim-delete-policy", State: NotYet, Here: "the Pod has no public address to keep", Test: testWarned},
	{Key: api.EKS + "eip-id-list", State: NotYet, Here: "the Pod has no public address; publish it by a Service", Test: testWarned, Also: []string{"eip-id", "eip-ids"}},
	{Key: api.EKS + "eip-injection", State: NotYet, Here: "the Pod has no public address to show on its interface", Test: testWarned, Anyway: "false"},
	{Key: api.EKS + "security-group-id", State: NotYet, Here: "there is no firewall around the Pod: whatever can route to it reaches it", Test: testWarned,
		Also: []string{"security-group", "security-groups", "security-group-ids"}},
	{Key: api.EKS + "role-name", State: NotYet, Here: "the Pod has its ServiceAccount and no identity in a cloud", Test: testWarned, Also: []string{"cam-role-name"}},
	{Key: api.EKS + "registry-insecure-skip-verify", State: NotYet, Here: "the operator names such registries in registries.yaml (docs/registries.md)", Test: testWarned},
	{Key: api.EKS + "registry-http-endpoint", State: NotYet, Here: "the operator names such registries in registries.yaml (docs/registries.md)", Test: testWarned},
	{Key: api.EKS + "cbs-reuse-key", State: Implied, Here: "images stay on the host for every Pod; a writable disk is never shared", Test: testQuiet},
	{Key: api.EKS + "not-reuse-cbs", State: Implied, Here: "every Pod's writable disk is new", Test: testQuiet},
	{Key: api.EKS + "use-image-cache", State: NotYet, Here: "images are pulled, or taken from those that the host has", Test: testWarned},
	{Key: api.EKS + "image-cache-disk-type", State: NotYet, Here: "there is no image cache: images are pulled, or taken from those that the host has", Test: testWarned},
	{Key: api.EKS + "image-cache-disk-size", State: NotYet, Here: "there is no image cache: images are pulled, or taken from those that the host has", Test: testWarned},
	{Key: api.EKS + "image-cache-disk-retain-minute", State: NotYet, Here: "there is no image cache: images are pulled, or taken from those that the host has", Test: testWarned},
	{Key: api.EKS + "host-sysctls", State: NotYet, Here: "use spec.securityContext.sysctls, or a privileged init container: the kernel is the Pod's own", Test: testWarned},
	{Key: api.EKS + "host-modprobe", State: NotYet, Here: "the guest loads its own modules and no others", Test: testWarned},
	{Key: api.EKS + "host-timezone", State: NotYet, Here: "the guest is in UTC; set the variable TZ in the containers", Test: testWarned, Anyway: "UTC", Also: []string{"timezone"}},
	{Key: api.EKS + "recreate-node-lost-pod", State: NotYet, Here: "a Pod of a lost host is replaced by its workload", Test: testWarned, Anyway: "true"},
	{Key: api.EKS + "heartbeat-lost-period", State: NotYet, Here: "hosts are watched, with the cluster's own periods, and not Pods", Test: testWarned},
	{Key: api.EKS + "image-gc-high-threshold", State: NotYet, Here: "images are the host's, and so is their removal", Test: testWarned},
	{Key: api.EKS + "image-gc-low-threshold", State: NotYet, Here: "images are the host's, and so is their removal", Test: testWarned},
	{Key: api.EKS + "image-gc-period", State: NotYet, Here: "images are the host's, and so is their removal", Test: testWarned},
	{Key: api.EKS + "container-gc-threshold", State: NotYet, Here: "exited containers are removed when the host runs short of disk", Test: testWarned},
	{Key: api.EKS + "must-keep-last-container", State: NotYet, Here: "the last exited one is kept until the host runs short of disk", Test: testWarned, Anyway: "false"},
	{Key: api.EKS + "pod-eviction-threshold", State: NotYet, Here: "who writes to a full disk is told so (no space left on device), and nothing is restarted", Test: testWarned},
	{Key: metricsPort, State: NotYet, Here: "nothing serves metrics in the Pod; the port is the one that is warned of in place of 9100", Test: "TestReservedPort"},
	{Key: api.EKS + "cri-stats-interval", State: NotYet, Here: "usage is measured at the cluster's own interval", Test: testWarned},
	{Key: api.EKS + "custom-metrics-url", State: NotYet, Here: "nothing serves metrics in the Pod", Test: testWarned},
	{Key: internalEKS + "pod-eth-idx", State: NotYet, Here: "the Pod's interface is eth0", Test: testWarned, Anyway: "0"},
	{Key: api.EKS + "resolv-conf", State: NotYet, Here: "use dnsPolicy None and dnsConfig", Test: testWarned},
	{Key: api.EKS + "cluster-ip-switch", State: NotYet, Here: "Services are reached from every Pod", Test: testWarned},
	{Key: api.EKS + "duration-to-wait-service-rules", State: Implied, Here: "the rules of Services are the host's, and stand before the Pod starts", Test: testQuiet},
	{Key: api.EKS + "ipvs-scheduler", State: NotYet, Here: "Services are nftables rules that choose at random; sessionAffinity ClientIP keeps a client where it is", Test: testWarned},
	{Key: api.EKS + "ipvs-sh-port", State: NotYet, Here: "Services are nftables rules that choose at random", Test: testWarned},
	{Key: api.EKS + "ipvs-sync-period", State: NotYet, Here: "Services are nftables rules of the host, renewed at each change", Test: testWarned},
	{Key: api.EKS + "ipvs-min-sync-period", State: NotYet, Here: "Services are nftables rules of the host, renewed at each change", Test: testWarned},
	{Key: api.EKS + "ipvs-udp-timeout", State: NotYet, Here: "connections are tracked with the host's own timeouts", Test: testWarned},
	{Key: api.EKS + "ipvs-tcp-timeout", State: NotYet, Here: "connections are tracked with the host's own timeouts", Test: testWarned},
	{Key: api.EKS + "reserve-sandbox-duration", State: NotYet, Here: "the microVM ends with its last container; logs stay until the Pod is deleted", Test: testWarned},
	{Key: api.EKS + "reserve-succeeded-sandbox", State: NotYet, Here: "the microVM ends with its last container; logs stay until the Pod is deleted", Test: testWarned, Anyway: "false"},
	{Key: api.EKS + "reserve-task-shorter-than", State: NotYet, Here: "the microVM ends with its last container; logs stay until the Pod is deleted", Test: testWarned},
	{Key: api.EKS + "log-key-as-message", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned, Anyway: "false"},
	{Key: api.EKS + "filebeat-metadata-format", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned, Anyway: "false"},
	{Key: internalEKS + "tail-buffer-max-size", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned},
	{Key: internalEKS + "tail-buffer-chunk-size", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned},
	{Key: api.EKS + "parser-name", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned},
	{Key: api.EKS + "volume-name-for-parser", State: NotYet, Here: "logs are not collected; read them by kubectl logs", Test: testWarned},
	{Key: dsInjection, On: OnDaemonSet, Here: "with the policy `inject`: the DaemonSet's containers are added to new Pods", Test: "TestInject", Also: []string{"ds-inject", "daemonset-injection"}},
	{Key: dsInjectByLabel, On: OnDaemonSet, Here: "`key:value`: only Pods with this label get them", Test: "TestInject"},
	{Key: api.EKS + "ds-inject-rate", State: NotYet, On: OnDaemonSet, Here: "a change of the DaemonSet is for new Pods only, and for all of them at once", Test: testWarned},
	{Key: api.EKS + "eklet-version", State: NotYet, Here: "the parts of a microVM are those of the installed release", Test: testWarned},
	{Key: tke + "eip-public-ip", State: Refused, Here: "only the cluster writes it: whoever reads it takes it for the Pod's public address. Remove it", Test: "TestRefusedKeys"},
	{Key: tke + "pod-type", State: Implied, Here: "every Pod is one in a microVM of its own; it is kept as written, for what looks for it", Test: testQuiet},
	{Key: api.EKS + "subnet-id", On: OnNode, Here: "names the range of the node's Pods; written by the cluster", Test: "TestNodesAreDescribed"},
	{Key: api.EKS + "available-ip-count", On: OnNode, Here: "a label: addresses of the node's range that no Pod has; written by the cluster", Test: "TestAddressesAreCounted"},
	{Key: internalEKS + "init-script", State: Refused, Here: "no script runs at the start of the microVM. Use an init container, a privileged one if it sets up the kernel", Test: "TestRefusedKeys"},
}

// lookup finds a key by its full name, or is nil.
func lookup(key string) *Key {
	for i := range table {
		if table[i].Key == key {
			return &table[i]
		}
	}
	return nil
}

// byName finds a key by its name without a prefix, in any spelling, or is nil.
func byName(name string, synonyms bool) *Key {
	name = spelled(name)
	for i := range table {
		if table[i].name() == name || synonyms && slices.Contains(table[i].Also, name) {
			return &table[i]
		}
	}
	return nil
}

// spelled is a name as keys are spelled.
func spelled(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }
