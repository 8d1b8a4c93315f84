package kubelet

import (
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/features"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

const (
	// component is what upstream calls it.
	component   = "kubelet"
	port        = 10250
	healthzPort = 10248
)

// hostFacts is what settings depend on besides Config.
type hostFacts struct {
	resolvConf  string // for Pods with dnsPolicy Default
	oomScoreAdj int32
	maxFiles    int64
}

// settings is the whole configuration of the kubelet. It starts nothing and reads nothing of the host.
func settings(c Config, host hostFacts) (*options.KubeletServer, error) {
	flags := options.NewKubeletFlags()
	flags.KubeConfig = c.Kubeconfig
	flags.HostnameOverride = c.NodeName
	flags.NodeIP = c.NodeIP.String()
	flags.RootDirectory = c.RootDir
	flags.MaxContainerCount = -1 // pkg/worker/ended has the bound, and does not take it from neighbours
	flags.CertDirectory = filepath.Join(c.RootDir, "pki")
	for k, v := range c.Labels {
		flags.NodeLabels[k] = v
	}

	conf, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration: %w", err)
	}
	serving(conf, c)
	resources(conf, c, host)
	gates(conf)
	pods(conf, c, host)
	if err := extra(flags, conf, c.ExtraArgs); err != nil {
		return nil, err
	}
	server := &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *conf}
	if err := options.ValidateKubeletServer(server); err != nil {
		return nil, kubeflags.Refused(component, err)
	}
	return server, nil
}

// extra sets what the operator passes on, as the kubelet's own command line would.
func extra(flags *options.KubeletFlags, conf *kubeletconfig.KubeletConfiguration, pairs []string) error {
	set := pflag.NewFlagSet(component, pflag.ContinueOnError)
	flags.AddFlags(set)
	options.AddKubeletConfigFlags(set, conf)
	ours := conf.FeatureGates // the flag replaces the map
	if err := kubeflags.Set(component, set, pairs); err != nil {
		return err
	}
	for gate, on := range ours {
		if _, said := conf.FeatureGates[gate]; !said {
			conf.FeatureGates[gate] = on
		}
	}
	return nil
}

// serving: who may call the kubelet, and where.
func serving(conf *kubeletconfig.KubeletConfiguration, c Config) {
	conf.Port = port
	conf.ReadOnlyPort = 0
	conf.HealthzBindAddress = "127.0.0.1"
	conf.HealthzPort = healthzPort
	conf.TLSCertFile = c.CertFile
	conf.TLSPrivateKeyFile = c.KeyFile
	conf.Authentication.Anonymous.Enabled = false
	conf.Authentication.Webhook.Enabled = true
	conf.Authentication.X509.ClientCAFile = c.ClientCAFile
	conf.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	conf.EnableSystemLogHandler = false // /var/log of the host is not the API's business
	conf.EnableProfilingHandler = false
	conf.EnableDebugFlagsHandler = false
}

// resources: what the kubelet takes from the host and leaves to it.
func resources(conf *kubeletconfig.KubeletConfiguration, c Config, host hostFacts) {
	conf.FailCgroupV1 = false
	conf.CgroupDriver = "cgroupfs"
	conf.CgroupRoot = c.CgroupRoot
	conf.CgroupsPerQOS = true
	conf.FailSwapOn = false
	conf.OOMScoreAdj = host.oomScoreAdj
	conf.MaxOpenFiles = host.maxFiles
	// What is not reserved is the limit of all Pods together.
	conf.KubeReserved = map[string]string{"memory": strconv.FormatInt(c.KubeReserved, 10)}
	conf.SystemReserved = map[string]string{"memory": strconv.FormatInt(c.SystemReserved, 10)}
	conf.EvictionHard = map[string]string{
		"memory.available":   "100Mi",
		"nodefs.available":   "5%",
		"nodefs.inodesFree":  "5%",
		"imagefs.available":  "5%",
		"imagefs.inodesFree": "5%",
	}
	conf.ImageGCHighThresholdPercent = 85
	conf.ImageGCLowThresholdPercent = 80
	conf.ContainerLogMaxSize = "10Mi"
	conf.ContainerLogMaxFiles = 5
	// A log grows by what its container says between two looks; rotated parts are compressed, two logs at a time.
	conf.ContainerLogMonitorInterval = metav1.Duration{Duration: 3 * time.Second}
	conf.ContainerLogMaxWorkers = 2
	// Limits on ephemeral storage are held to by figures that are this old.
	conf.VolumeStatsAggPeriod = metav1.Duration{Duration: 15 * time.Second}
	// Packet rules are kube-proxy's and pkg/netdev's.
	conf.MakeIPTablesUtilChains = false
	conf.VolumePluginDir = filepath.Join(c.RootDir, "volume-plugins")
}

// gates: where the kubelet's own choice does not fit a microVM.
func gates(conf *kubeletconfig.KubeletConfiguration) {
	conf.FeatureGates = map[string]bool{
		// By default the use of Pods is read from their cgroups on the host, where a microVM is one QEMU. With this it is the
		// runtime's word, which comes from the cgroups in the guest.
		string(features.PodAndContainerStatsFromCRI): true,
		// With it variables are read from files that containers have written, whole and with this process waiting for them.
		string(features.EnvFiles): false,
	}
}

// pods: how Pods are run.
func pods(conf *kubeletconfig.KubeletConfiguration, c Config, host hostFacts) {
	conf.ContainerRuntimeEndpoint = "unix://" + c.Socket
	conf.PodLogsDir = c.PodLogsDir
	conf.MaxPods = c.MaxPods
	conf.ClusterDNS = []string{c.ClusterDNS.String()}
	conf.ClusterDomain = c.ClusterDomain
	conf.AllowedUnsafeSysctls = []string{"net.*"} // of a kernel that is the Pod's own
	conf.ResolverConfig = host.resolvConf
	// containerd bounds pulls, fairly between namespaces (pkg/worker/containerd/pull). A bound of the kubelet's would be one queue for all.
	conf.SerializeImagePulls = false
	conf.MaxParallelImagePulls = nil
	conf.RegistryPullQPS = 0
	// Guests that do not get on are given up by nodeless-vmm and the shim, whatever the host's load. This is for what they do not see. A
	// sandbox has twice as long, with the time that it waits for its turn to boot (pkg/worker/cri).
	conf.RuntimeRequestTimeout = metav1.Duration{Duration: 10 * time.Minute}
	conf.NodeStatusUpdateFrequency = metav1.Duration{Duration: 10 * time.Second}
	conf.NodeStatusReportFrequency = metav1.Duration{Duration: 5 * time.Minute}
	// Pods outlive a restart of the server; a reboot of the host is the operator's to drain for.
	conf.ShutdownGracePeriod = metav1.Duration{}
	conf.ShutdownGracePeriodCriticalPods = metav1.Duration{}
}
