package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/netdev"
)

// Config is every setting of a server. Load makes it; pkg/cli hands its parts to the roles.
type Config struct {
	Paths    Paths
	Node     Node
	API      API
	Network  Network
	Specs    Specs
	Extra    ExtraArgs
	Disable  []string // built-in parts that are left out, of Parts
	LogLevel slog.Level
}

// Paths are the files and folders of the server.
type Paths struct {
	File       string // the configuration file that was asked for
	Data       datadir.Dir
	Run        datadir.RunDir
	Kubeconfig string // where the administrator's kubeconfig is written
	Registries string // the file of image registries
}

// Node is what the host offers as a node.
type Node struct {
	Name     string     // empty: made of the host name
	Hostname string     // found by Complete
	IP       netip.Addr // invalid: found by Complete
	MaxPods  int
	// CPUOvercommit is how often each CPU of the host is given to Pods.
	CPUOvercommit int
	CgroupRoot    string
	DiskReserve   int    // percent of the data dir's file system
	DiskBandwidth int    // MiB a second for each Pod; 0 for no bound
	DiskIOPS      int    // operations a second for each Pod; 0 for no bound
	LogRate       int    // MiB a second that each Pod writes to its logs; 0 for no bound
	Accel         string // auto, kvm or tcg
	HugePages     string // keep or advise
	// RuncPath adds a RuntimeClass handler "runc", with the shim at RuncShimPath or in PATH; for measurements only.
	RuncPath, RuncShimPath string
	PullTimeout            time.Duration // of one pull of an image; none when it is 0
	PullRate               int           // KiB a second that a download comes with at least; any will do when it is 0
}

// API is how the apiserver listens and where it keeps its objects.
type API struct {
	Bind      netip.Addr
	Port      int
	Advertise netip.Addr // invalid: the node's address
	TLSSANs   []string
	// MaxRequests is how many requests that last each user has open, MaxConns how many connections each address has. 0 is no bound.
	MaxRequests, MaxConns int

	Datastore string // empty: SQLite in the data folder
	// SnapshotInterval is the time between two copies of the SQLite file; none are made when it is 0.
	SnapshotInterval time.Duration
}

// Network is the cluster's addresses and names.
type Network struct {
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	DNS         netip.Addr
	Domain      string
	NodePorts   PortRange
	NodePortsAt []netip.Prefix // addresses of the host that they are open at, besides the gateway of its Pods
	// Guard is what Pods may reach, and who may reach them.
	Guard     netdev.Guard
	Bandwidth int // Mbit a second that each Pod sends, and as many that it receives; 0 for no limit
}

// Specs is what Pods can be and what they cost.
type Specs struct {
	Catalog, Prices string // files; those of TKE Serverless when empty
	Currency        string
	DaemonSets      string   // what becomes of them: park, deny, run or inject
	InjectFrom      []string // namespaces besides kube-system whose DaemonSets are added to Pods of all others
	HostPath        []string // namespaces that may have such volumes, or deny alone
	Sizing          string   // what Pods are sized by: spec or native
	HostPort        string   // whether Pods may have ports of their host: deny or allow
	SpotReserve     int      // percent of each host that spot Pods leave free
	SpotNotice      time.Duration
}

// ExtraArgs are passed through to the Kubernetes components, each "name=value".
type ExtraArgs struct {
	APIServer         []string
	ControllerManager []string
	Scheduler         []string
	Kubelet           []string
	Proxy             []string
}

// Parts are the names that disable accepts.
var Parts = []string{"audit", "dns", "metrics", "proxy"}

// RegistriesAsked tells whether somebody has named the file of image registries; then it must exist.
func (p Paths) RegistriesAsked() bool { return p.Registries != datadir.RegistriesFile }

// Disabled tells whether the built-in part was left out.
func (c Config) Disabled(part string) bool {
	for _, d := range c.Disable {
		if d == part {
			return true
		}
	}
	return false
}
