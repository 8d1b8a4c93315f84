// Package worker is the role of a host that runs Pods: the list of its components in start order.
// pkg/cli hands them to pkg/server in the same process; a host of a fleet runs them alone.
package worker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/cidr"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/memcg"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/syslogd"
	"github.com/nodeless/nodeless/pkg/teardown"
	"github.com/nodeless/nodeless/pkg/vmm"
	"github.com/nodeless/nodeless/pkg/worker/containerd"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
	"github.com/nodeless/nodeless/pkg/worker/cri"
	"github.com/nodeless/nodeless/pkg/worker/ended"
	"github.com/nodeless/nodeless/pkg/worker/kubelet"
	"github.com/nodeless/nodeless/pkg/worker/network"
	"github.com/nodeless/nodeless/pkg/worker/notice"
	"github.com/nodeless/nodeless/pkg/worker/orphans"
	"github.com/nodeless/nodeless/pkg/worker/proxy"
	"github.com/nodeless/nodeless/pkg/worker/vmmconfig"
)

// vmDir holds a folder for each sandbox.
const vmDir = "/" + contract.KataVMs

// podBits is the size of one host's share of the cluster range.
const podBits = 24

// Config is what the role needs to know.
type Config struct {
	Bundle *bundle.Bundle
	Data   datadir.Dir
	Run    datadir.RunDir
	Node   Node
	Net    Net
	Files  Files

	Registries  string // the operator's file of image registries
	Pull        pull.Limits
	Disk        contract.Disk   // bounds on what a Pod does to the host's disk
	LogRate     int64           // bytes a second that each Pod writes to its logs; 0 for no bound
	HugePages   bool            // the kernel is told to make guests' memory of huge pages
	Accel       string          // vmmconfig.Auto, vmmconfig.Any, vmm.AccelKVM or vmm.AccelTCG
	Runc        containerd.Runc // a second runtime, for measurements
	NoProxy     bool
	KubeletArgs []string // "name=value"
	ProxyArgs   []string
	Debug       bool
}

// Node is the host as a Node.
type Node struct {
	Name     string
	Hostname string // of the host behind it
	IP       netip.Addr
	MaxPods  int
	// CPUOvercommit is how often each CPU of the host is given to Pods.
	CPUOvercommit int
	CgroupRoot    string
}

// Net is the cluster's addresses and names.
type Net struct {
	ClusterCIDR, ServiceCIDR netip.Prefix
	DNS                      netip.Addr
	Domain                   string
	Guard                    netdev.Guard   // what Pods reach, and who reaches them
	NodePortsAt              []netip.Prefix // addresses of the host that node ports are open at
}

// Files are how the components prove who they are.
type Files struct {
	KubeletKubeconfig       string
	KubeletCert, KubeletKey string // serving
	ClientCA                string // who may call the kubelet
	ProxyKubeconfig         string
}

// PodCIDR is this host's share of the cluster range: the first, as long as there is one host.
func (n Net) PodCIDR() (netip.Prefix, error) { return cidr.First(n.ClusterCIDR, podBits) }

// Gateway is this host's address towards its Pods; the name server binds it.
func (n Net) Gateway() (netip.Addr, error) {
	pods, err := n.PodCIDR()
	if err != nil {
		return netip.Addr{}, err
	}
	return cidr.Nth(pods, 1)
}

// Steps lists the components in start order. Those that talk to the apiserver come after the component "apiserver",
// and kube-proxy after the Node exists: it looks for it only now and then.
//
// The bundle's iptables and nft go in front of this process's PATH: kube-proxy looks for them nowhere else.
func Steps(cfg Config, log *slog.Logger) ([]run.Step, error) {
	pods, err := cfg.Net.PodCIDR()
	if err != nil {
		return nil, err
	}
	if err := os.Setenv("PATH", cfg.Bundle.Aux()+":"+os.Getenv("PATH")); err != nil {
		return nil, fmt.Errorf("set PATH: %w", err)
	}
	criProxy := cri.New(cfg.cri(), log)
	steps := []run.Step{
		{Component: syslogd.New(syslogd.DefaultConfig(), log)},
		{Component: orphans.New(cfg.host(), cfg.Data.Bundles(), log)},
		{Component: vmmconfig.New(cfg.vmmConfig(), log)},
		{Component: network.New(cfg.network(pods), log)},
		{Component: containerd.New(cfg.containerd(), log), After: []string{"syslog", "orphans", "vmm-config", "network"}},
		{Component: criProxy, After: []string{"vmm-config"}},
		{Component: kubelet.New(cfg.kubelet(pods), log), After: []string{"apiserver", "containerd", "cri"}},
		{Component: notice.New(cfg.notice(criProxy.Boots), log), After: []string{"kubelet"}},
		{Component: ended.New(ended.Config{Socket: cfg.Run.CRI(), Most: endedOfEach * cfg.Node.MaxPods}, log), After: []string{"kubelet"}},
	}
	if !cfg.NoProxy {
		steps = append(steps, run.Step{Component: proxy.New(cfg.proxy(), log), After: []string{"kubelet"}})
	}
	return steps, nil
}

// endedOfEach is how many containers of ended Pods a host keeps for each Pod that it may have.
const endedOfEach = 10

func (c Config) host() teardown.Host {
	return teardown.Host{
		Bundles: []string{c.Data.Bundles(), c.Bundle.Dir()}, ScratchDir: c.Data.Scratch(),
		Socket: c.Run.ContainerdSocket(), CgroupRoot: c.Node.CgroupRoot,
	}
}

func (c Config) vmmConfig() vmmconfig.Config {
	return vmmconfig.Config{
		File: c.Run.VMMConfig(), Want: c.Accel, HugePages: c.HugePages, ClusterID: c.Data.ClusterID,
		Host: vmm.HostConfig{
			Bundle: c.Bundle.Dir(), ScratchDir: c.Data.Scratch(), KubeletDir: c.Data.Kubelet(), LogDir: c.Run.VMMLogs(), Debug: c.Debug,
			RecordDir: c.Data.SandboxRecords(), NodeName: c.Node.Name, Disk: c.Disk, LogRate: c.LogRate,
		},
	}
}

func (c Config) network(pods netip.Prefix) network.Config {
	return network.Config{
		ClusterCIDR: c.Net.ClusterCIDR, PodCIDR: pods, ServiceCIDR: c.Net.ServiceCIDR,
		ConfDir: c.Run.CNIConf(), DataDir: c.Data.CNI(), RunDir: string(c.Run), Guard: c.Net.Guard, NFT: filepath.Join(c.Bundle.Aux(), "nft"),
	}
}

func (c Config) containerd() containerd.Config {
	conf := containerd.DefaultConfig(c.Bundle, c.Data, c.Run)
	conf.Runc, conf.Registries, conf.Debug = c.Runc, c.Registries, c.Debug
	conf.Pull.Timeout, conf.Pull.Rate = c.Pull.Timeout, c.Pull.Rate
	conf.Denied, conf.Cluster = c.Net.Guard.Denied, []netip.Prefix{c.Net.ClusterCIDR, c.Net.ServiceCIDR}
	if total, err := memcg.Total("/proc/meminfo"); err == nil {
		b := memcg.For(total, c.Node.MaxPods)
		conf.Memory = containerd.Memory{Aim: b.Containerd, Bound: b.ContainerdMax, Cgroup: c.Node.CgroupRoot + "/containerd", Converters: b.Converters, ConvertersCgroup: c.Node.CgroupRoot + "/converters"}
	}
	return conf
}

func (c Config) cri() cri.Config {
	return cri.Config{Socket: c.Run.CRI(), Upstream: c.Run.ContainerdSocket(), VMDir: vmDir, Pods: filepath.Join(c.Data.Kubelet(), "pods"), Messages: c.Run.Messages(), CgroupRoot: c.Node.CgroupRoot, VMMConfig: c.Run.VMMConfig()}
}

func (c Config) notice(boots func() []vmm.Boot) notice.Config {
	return notice.Config{Kubeconfig: c.Files.KubeletKubeconfig, NodeName: c.Node.Name, VMDir: vmDir, VMMConfig: c.Run.VMMConfig(), Boots: boots}
}

func (c Config) kubelet(pods netip.Prefix) kubelet.Config {
	conf := kubelet.DefaultConfig()
	// Pods see the Node's name and address: the address is that of their gateway, at which the kubelet can be reached as well.
	conf.NodeName, conf.NodeIP = c.Node.Name, pods.Masked().Addr().Next()
	conf.RootDir, conf.PodLogsDir, conf.Socket = c.Data.Kubelet(), c.Data.PodLogs(), c.Run.CRI()
	conf.Kubeconfig, conf.ClientCAFile = c.Files.KubeletKubeconfig, c.Files.ClientCA
	conf.CertFile, conf.KeyFile = c.Files.KubeletCert, c.Files.KubeletKey
	conf.PodCIDR, conf.ClusterDNS, conf.ClusterDomain = pods, c.Net.DNS, c.Net.Domain
	conf.CgroupRoot, conf.MaxPods, conf.CPUOvercommit = c.Node.CgroupRoot, int32(c.Node.MaxPods), c.Node.CPUOvercommit
	conf.ResolvConf = c.Run.ResolvConf()
	if total, err := memcg.Total("/proc/meminfo"); err == nil {
		b := memcg.For(total, c.Node.MaxPods)
		conf.KubeReserved, conf.SystemReserved = b.KubeReserved, b.SystemReserved
	}
	conf.ExtraArgs = c.KubeletArgs
	conf.Labels = map[string]string{api.InstanceTypeLabel: api.InstanceType}
	if kind := cpuType("/proc/cpuinfo"); kind != "" {
		conf.Labels[api.CPUTypeLabel] = kind
	}
	conf.Annotations = map[string]string{
		api.SubnetID:       "subnet-" + strings.TrimPrefix(c.Node.Name, "eklet-subnet-"),
		api.HostAnnotation: strings.TrimPrefix(c.Node.Hostname+", "+c.Node.IP.String(), ", "),
	}
	return conf
}

// cpuType is what catalogs call the host's CPUs: "intel", "amd", or "" when it is neither.
func cpuType(cpuinfo string) string {
	text, err := os.ReadFile(cpuinfo)
	if err != nil {
		return ""
	}
	for vendor, kind := range map[string]string{"GenuineIntel": "intel", "AuthenticAMD": "amd"} {
		if strings.Contains(string(text), vendor) {
			return kind
		}
	}
	return ""
}

func (c Config) proxy() proxy.Config {
	return proxy.Config{Kubeconfig: c.Files.ProxyKubeconfig, NodeName: c.Node.Name, ClusterCIDR: c.Net.ClusterCIDR, NodePortsAt: c.Net.NodePortsAt, ExtraArgs: c.ProxyArgs}
}
