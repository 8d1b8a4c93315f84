package config

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/server/apiserver/guard/defaults"
)

// Kind is the shape of an option's value.
type Kind int

const (
	// Scalar is one value.
	Scalar Kind = iota
	// List is several values, separated by commas or given several times.
	List
	// Args is several name=value pairs. They may contain commas; in the environment white space separates them.
	Args
)

// EnvPrefix begins the environment name of each option.
const EnvPrefix = "NODELESS_"

// Option is one setting: a flag, an environment variable and a key of the configuration file, all of one name.
type Option struct {
	Name    string
	Kind    Kind
	Default string
	Usage   string
	Hidden  bool
	field   func(*Config) any // where the value goes
}

// Env is the name of the environment variable.
func (o Option) Env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
}

// Options is the table of all settings, in the order in which help shows them.
func Options() []Option {
	var all []Option
	all = append(all, pathOptions()...)
	all = append(all, nodeOptions()...)
	all = append(all, apiOptions()...)
	all = append(all, networkOptions()...)
	all = append(all, specOptions()...)
	return append(all, otherOptions()...)
}

// Pick gives the named options, for commands that need only a few settings.
func Pick(names ...string) []Option {
	var picked []Option
	for _, o := range Options() {
		for _, name := range names {
			if o.Name == name {
				picked = append(picked, o)
			}
		}
	}
	return picked
}

func pathOptions() []Option {
	return []Option{
		{Name: "config", Default: datadir.ConfigFile, Usage: "configuration `file`; files in <file>.d/*.yaml are read after it",
			field: func(c *Config) any { return &c.Paths.File }},
		{Name: "data-dir", Default: string(datadir.Default), Usage: "`folder` of what outlives a reboot",
			field: func(c *Config) any { return &c.Paths.Data }},
		{Name: "run-dir", Default: string(datadir.DefaultRun), Usage: "`folder` of sockets and generated settings",
			field: func(c *Config) any { return &c.Paths.Run }},
		{Name: "write-kubeconfig", Default: datadir.Kubeconfig, Usage: "`file` that receives the administrator's kubeconfig",
			field: func(c *Config) any { return &c.Paths.Kubeconfig }},
		{Name: "private-registry", Default: datadir.RegistriesFile, Usage: "`file` of mirrors, credentials and certificates of image registries",
			field: func(c *Config) any { return &c.Paths.Registries }},
	}
}

func nodeOptions() []Option {
	return []Option{
		{Name: "node-name", Usage: "`name` of the node (default: eklet-subnet- and a hash of the host name)",
			field: func(c *Config) any { return &c.Node.Name }},
		{Name: "node-ip", Usage: "`address` of the node (default: that of the default route, else the first one)",
			field: func(c *Config) any { return &c.Node.IP }},
		{Name: "max-pods", Default: "110", Usage: "how many Pods the node takes",
			field: func(c *Config) any { return &c.Node.MaxPods }},
		{Name: "cpu-overcommit", Default: "4", Usage: "how many `times` each CPU of the host is given to Pods; 1 for CPUs of their own",
			field: func(c *Config) any { return &c.Node.CPUOvercommit }},
		{Name: "cgroup-root", Default: "/nodeless", Usage: "cgroup `path` below which all Pods live",
			field: func(c *Config) any { return &c.Node.CgroupRoot }},
		{Name: "disk-reserve", Default: "7", Usage: "how many `percent` of the data dir's file system Pods leave free; one that writes on has to wait; 0 for none",
			field: func(c *Config) any { return &c.Node.DiskReserve }},
		{Name: "pod-disk-bandwidth", Default: "1000", Usage: "how many `MiB` a second a Pod may read from its disks, and as many write; 0 for no bound",
			field: func(c *Config) any { return &c.Node.DiskBandwidth }},
		{Name: "pod-disk-iops", Default: "30000", Usage: "how many `times` a second a Pod may read from its disks, and as often write; 0 for no bound",
			field: func(c *Config) any { return &c.Node.DiskIOPS }},
		{Name: "pod-log-rate", Default: "8", Usage: "how many `MiB` a second all containers of a Pod write to their logs; faster ones have to wait; 0 for no bound",
			field: func(c *Config) any { return &c.Node.LogRate }},
		{Name: "accel", Default: "auto", Usage: "how microVMs run: auto and kvm need a KVM that works, tcg emulates, which is slow and isolates less, any emulates where KVM does not work",
			field: func(c *Config) any { return &c.Node.Accel }},
		{Name: "huge-pages", Default: "keep", Usage: "guests' memory of huge pages: keep leaves the kernel's settings alone, which has them for Pods without volumes at most; advise sets them, for all Pods",
			field: func(c *Config) any { return &c.Node.HugePages }},
		{Name: "pull-timeout", Default: "1h", Usage: "`time` after which a pull of an image is given up; 0 for never",
			field: func(c *Config) any { return &c.Node.PullTimeout }},
		{Name: "pull-rate", Default: "16", Usage: "`KiB` a second, over a minute, below which a download of an image is given up; 0 for never",
			field: func(c *Config) any { return &c.Node.PullRate }},
		{Name: "runc-path", Hidden: true, Usage: "runc `file` for a second RuntimeClass handler, for measurements",
			field: func(c *Config) any { return &c.Node.RuncPath }},
		{Name: "runc-shim-path", Hidden: true, Usage: "containerd-shim-runc-v2 `file` to go with runc-path (default: the one in PATH)",
			field: func(c *Config) any { return &c.Node.RuncShimPath }},
	}
}

func apiOptions() []Option {
	return []Option{
		{Name: "bind-address", Default: "0.0.0.0", Usage: "`address` that the apiserver listens on",
			field: func(c *Config) any { return &c.API.Bind }},
		{Name: "https-listen-port", Default: "6443", Usage: "`port` that the apiserver listens on",
			field: func(c *Config) any { return &c.API.Port }},
		{Name: "advertise-address", Usage: "`address` at which Pods and nodes reach the apiserver (default: node-ip)",
			field: func(c *Config) any { return &c.API.Advertise }},
		{Name: "tls-san", Kind: List, Usage: "further `name` or address in the apiserver's certificate; may be repeated",
			field: func(c *Config) any { return &c.API.TLSSANs }},
		{Name: "max-open-requests", Default: strconv.Itoa(defaults.Requests), Usage: "`number` of requests that last, such as watches and exec, that each user has open; 0 for no limit",
			field: func(c *Config) any { return &c.API.MaxRequests }},
		{Name: "max-connections", Default: strconv.Itoa(defaults.Conns), Usage: "`number` of connections to the apiserver that each address outside of this host has open; 0 for no limit",
			field: func(c *Config) any { return &c.API.MaxConns }},
		{Name: "datastore-endpoint", Usage: "etcd `URL`s to use in place of the built-in SQLite",
			field: func(c *Config) any { return &c.API.Datastore }},
		{Name: "snapshot-interval", Default: "1h", Usage: "`time` between two copies of the built-in database, 24 of which are kept; 0 for none",
			field: func(c *Config) any { return &c.API.SnapshotInterval }},
	}
}

func networkOptions() []Option {
	return []Option{
		{Name: "cluster-cidr", Default: "10.42.0.0/16", Usage: "`range` of Pod addresses",
			field: func(c *Config) any { return &c.Network.ClusterCIDR }},
		{Name: "service-cidr", Default: "10.43.0.0/16", Usage: "`range` of Service addresses",
			field: func(c *Config) any { return &c.Network.ServiceCIDR }},
		{Name: "cluster-dns", Default: "10.43.0.10", Usage: "`address` of the cluster DNS, inside service-cidr",
			field: func(c *Config) any { return &c.Network.DNS }},
		{Name: "cluster-domain", Default: "cluster.local", Usage: "DNS `domain` of the cluster",
			field: func(c *Config) any { return &c.Network.Domain }},
		{Name: "service-node-port-range", Default: "30000-32767", Usage: "`ports` for Services of type NodePort",
			field: func(c *Config) any { return &c.Network.NodePorts }},
		{Name: "nodeport-addresses", Kind: List, Default: "0.0.0.0/0", Usage: "`range` of the host's addresses at which node ports are open; may be repeated, none for the gateway of its Pods alone",
			field: func(c *Config) any { return &c.Network.NodePortsAt }},
		{Name: "pod-deny-cidr", Kind: List, Default: strings.Join(ranges(netdev.MetadataServices()), ","),
			Usage: "`range` that no Pod reaches; replaces the list of where clouds keep a host's secrets (" + strings.Join(ranges(netdev.MetadataServices()), ", ") + "); may be repeated, none for none",
			field: func(c *Config) any { return &c.Network.Guard.Denied }},
		{Name: "pod-allow-from", Kind: List, Usage: "`range` outside of the cluster that reaches Pods and ClusterIPs by their own addresses; may be repeated",
			field: func(c *Config) any { return &c.Network.Guard.AllowFrom }},
		{Name: "pod-host-port", Kind: List, Usage: "`port/protocol` of the host that Pods reach beside DNS and the apiserver, such as 5432/tcp; may be repeated",
			field: func(c *Config) any { return &c.Network.Guard.HostPorts }},
		{Name: "pod-max-flows", Default: strconv.Itoa(netdev.DefaultLimits().Flows), Usage: "`number` of connections that one Pod has open; 0 for no limit",
			field: func(c *Config) any { return &c.Network.Guard.Limits.Flows }},
		{Name: "pod-new-flows", Default: strconv.Itoa(netdev.DefaultLimits().NewFlows), Usage: "`number` of connections that one Pod opens in a second; 0 for no limit",
			field: func(c *Config) any { return &c.Network.Guard.Limits.NewFlows }},
		{Name: "pod-packets", Default: strconv.Itoa(netdev.DefaultLimits().Packets), Usage: "`number` of packets that one Pod sends in a second; 0 for no limit",
			field: func(c *Config) any { return &c.Network.Guard.Limits.Packets }},
		{Name: "pod-bandwidth", Default: strconv.FormatInt(netdev.DefaultLimits().Bandwidth/mbit, 10), Usage: "`Mbit` a second that one Pod sends, and as many that it receives; 0 for no limit",
			field: func(c *Config) any { return &c.Network.Bandwidth }},
	}
}

// mbit is a Mbit in bytes.
const mbit = 1_000_000 / 8

// Limits are those of each Pod, with the bandwidth in the unit that they have it in.
func (n Network) Limits() netdev.Limits {
	l := n.Guard.Limits
	l.Bandwidth = int64(n.Bandwidth) * mbit
	return l
}

func ranges(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

func specOptions() []Option {
	return []Option{
		{Name: "catalog", Usage: "`file` of the specs that Pods are sized to (default: those of TKE Serverless)",
			field: func(c *Config) any { return &c.Specs.Catalog }},
		{Name: "prices", Usage: "`file` of what a second of each type costs, by currency (default: the list prices of TKE Serverless)",
			field: func(c *Config) any { return &c.Specs.Prices }},
		{Name: "currency", Default: "USD", Usage: "`currency` of bills, one of those in prices",
			field: func(c *Config) any { return &c.Specs.Currency }},
		{Name: "daemonsets", Default: "park", Usage: "what becomes of DaemonSets: `policy` park (taken, without Pods), deny, run (a Pod on each host) or inject (their containers are added to Pods)",
			field: func(c *Config) any { return &c.Specs.DaemonSets }},
		{Name: "daemonsets-from", Kind: List, Usage: "further `namespace` besides kube-system whose DaemonSets are added to Pods of all others (daemonsets inject); may be repeated",
			field: func(c *Config) any { return &c.Specs.InjectFrom }},
		{Name: "host-path", Kind: List, Default: denied, Usage: "`namespace` whose Pods may have hostPath volumes, folders of the real host: whoever makes Pods there owns the host; or deny; may be repeated",
			field: func(c *Config) any { return &c.Specs.HostPath }},
		{Name: "sizing", Default: sizingSpec, Usage: "`how` Pods are sized: spec (a Pod's resources become those of a spec, which schedulers and quotas count) or native (they stay as written; the spec is for the bill)",
			field: func(c *Config) any { return &c.Specs.Sizing }},
		{Name: "host-port", Default: denied, Usage: "whether Pods may have ports of their host (hostPort): `policy` deny or allow",
			field: func(c *Config) any { return &c.Specs.HostPort }},
		{Name: "spot-reserve", Default: "10", Usage: "how many `percent` of each host spot Pods leave free",
			field: func(c *Config) any { return &c.Specs.SpotReserve }},
		{Name: "spot-notice", Default: "2m", Usage: "`time` between telling a spot Pod that it has to go and ending it",
			field: func(c *Config) any { return &c.Specs.SpotNotice }},
	}
}

func otherOptions() []Option {
	arg := func(component string, field func(*Config) any) Option {
		return Option{Name: component + "-arg", Kind: Args, field: field,
			Usage: "`name=value` passed to the " + component + "; may be repeated"}
	}
	return []Option{
		{Name: "disable", Kind: List, Usage: "built-in `part` to leave out: " + strings.Join(Parts, ", ") + "; may be repeated",
			field: func(c *Config) any { return &c.Disable }},
		{Name: "log-level", Default: "info", Usage: "debug, info, warn or error",
			field: func(c *Config) any { return &c.LogLevel }},
		arg("kube-apiserver", func(c *Config) any { return &c.Extra.APIServer }),
		arg("kube-controller-manager", func(c *Config) any { return &c.Extra.ControllerManager }),
		arg("kube-scheduler", func(c *Config) any { return &c.Extra.Scheduler }),
		arg("kubelet", func(c *Config) any { return &c.Extra.Kubelet }),
		arg("kube-proxy", func(c *Config) any { return &c.Extra.Proxy }),
	}
}
