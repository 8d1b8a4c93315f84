package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/memcg"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/server"
	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/worker"
	"github.com/nodeless/nodeless/pkg/worker/containerd"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
)

// runRoles hands the settings to the two roles of this process and runs them until ctx ends or a component fails.
// It is the one place where the command line meets the roles.
func runRoles(ctx context.Context, cfg config.Config, ready run.Component, log *slog.Logger) error {
	files, err := openBundle()
	if err != nil {
		return err
	}
	boundMemory(cfg.Node.MaxPods)
	control, local := serverConfig(cfg), workerConfig(cfg)
	if control.Serverless.Catalog, err = loadCatalog(cfg.Specs); err != nil {
		return err
	}
	if control.Serverless.Prices, err = loadPrices(cfg.Specs); err != nil {
		return err
	}
	local.Bundle = files
	local.Files = worker.Files(control.WorkerFiles())
	if control.DNSBind, err = local.Net.Gateway(); err != nil {
		return err
	}
	control.Serverless.Rules = rules.Settings{DaemonSets: rules.Policy(cfg.Specs.DaemonSets), InjectFrom: cfg.Specs.InjectFrom, HostPath: cfg.Specs.HostPathNamespaces(),
		HostPorts: cfg.Specs.HostPorts(), Taken: takenPorts(cfg)}
	control.Serverless.Native = cfg.Specs.Native()
	control.Serverless.SpotReserve, control.Serverless.SpotNotice = cfg.Specs.SpotReserve, cfg.Specs.SpotNotice
	steps, err := worker.Steps(local, log)
	if err != nil {
		return err
	}
	after := []string{"bootstrap"}
	for _, s := range steps {
		after = append(after, s.Name())
	}
	return server.Run(ctx, control, append(steps, run.Step{Component: ready, After: after}), log)
}

// takenPorts are those of every host that no Pod has.
func takenPorts(cfg config.Config) []rules.Taken {
	return []rules.Taken{
		{Low: cfg.API.Port, High: cfg.API.Port, By: "the apiserver's"},
		{Low: 10248, High: 10248, By: "the kubelet's"}, {Low: 10250, High: 10250, By: "the kubelet's"},
		{Low: 10249, High: 10249, By: "kube-proxy's"}, {Low: 10256, High: 10256, By: "kube-proxy's"},
		{Low: 53, High: 53, By: "that of the cluster DNS"},
		{Low: cfg.Network.NodePorts.Low, High: cfg.Network.NodePorts.High, By: "one for node ports"},
	}
}

// gcPercent is Go's GOGC in the server. With Go's own 100 the garbage of a burst leaves the heap full of holes, which stay
// (docs/adr/0033-collect-twice-as-often.md).
const gcPercent = 50

// boundMemory has Go aim at what the host has for its server, and collect so often that memory follows what is held, unless the operator
// has said otherwise in the environment.
func boundMemory(pods int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	total, err := memcg.Total("/proc/meminfo")
	if err == nil && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memcg.For(total, pods).Server)
	}
}

// checkComponents refuses settings that one of the components would refuse when its turn to start comes.
func checkComponents(cfg config.Config) error {
	control, local := serverConfig(cfg), workerConfig(cfg)
	var err error
	if control.DNSBind, err = local.Net.Gateway(); err != nil {
		return err
	}
	local.Files = worker.Files(control.WorkerFiles())
	return errors.Join(control.Check(), local.Check())
}

func serverConfig(cfg config.Config) server.Config {
	c := server.Config{
		Data: cfg.Paths.Data, Run: cfg.Paths.Run, Kubeconfig: cfg.Paths.Kubeconfig,
		NodeName: cfg.Node.Name, NodeIP: cfg.Node.IP,
		Bind: cfg.API.Bind, Port: cfg.API.Port, Advertise: cfg.API.Advertise, TLSSANs: cfg.API.TLSSANs, Datastore: cfg.API.Datastore,
		Limits: apiserver.Limits{Requests: cfg.API.MaxRequests, Conns: cfg.API.MaxConns}, SnapshotInterval: cfg.API.SnapshotInterval,
		ServiceCIDR: cfg.Network.ServiceCIDR, NodePorts: cfg.Network.NodePorts.String(), DNS: cfg.Network.DNS, Domain: cfg.Network.Domain,
		NoDNS: cfg.Disabled("dns"), NoMetrics: cfg.Disabled("metrics"), NoAudit: cfg.Disabled("audit"),
		APIServerArgs: cfg.Extra.APIServer, ControllerManagerArgs: cfg.Extra.ControllerManager, SchedulerArgs: cfg.Extra.Scheduler,
	}
	if cfg.LogLevel <= slog.LevelDebug {
		c.Verbosity = 2
	}
	return c
}

func workerConfig(cfg config.Config) worker.Config {
	return worker.Config{
		Data: cfg.Paths.Data, Run: cfg.Paths.Run,
		Node:       worker.Node{Name: cfg.Node.Name, Hostname: cfg.Node.Hostname, IP: cfg.Node.IP, MaxPods: cfg.Node.MaxPods, CPUOvercommit: cfg.Node.CPUOvercommit, CgroupRoot: cfg.Node.CgroupRoot},
		Net:        worker.Net{ClusterCIDR: cfg.Network.ClusterCIDR, ServiceCIDR: cfg.Network.ServiceCIDR, DNS: cfg.Network.DNS, Domain: cfg.Network.Domain, Guard: guard(cfg), NodePortsAt: cfg.Network.NodePortsAt},
		Registries: cfg.Paths.Registries, Pull: pull.Limits{Timeout: cfg.Node.PullTimeout, Rate: int64(cfg.Node.PullRate) << 10},
		Disk:    contract.Disk{ReservePercent: cfg.Node.DiskReserve, BytesPerSecond: int64(cfg.Node.DiskBandwidth) << 20, OpsPerSecond: int64(cfg.Node.DiskIOPS)},
		LogRate: int64(cfg.Node.LogRate) << 20,
		Accel:   cfg.Node.Accel, HugePages: cfg.Node.HugePages == "advise", Runc: containerd.Runc{Binary: cfg.Node.RuncPath, Shim: cfg.Node.RuncShimPath}, NoProxy: cfg.Disabled("proxy"),
		KubeletArgs: cfg.Extra.Kubelet, ProxyArgs: cfg.Extra.Proxy, Debug: cfg.LogLevel <= slog.LevelDebug,
	}
}

// guard adds to what the operator says of Pods what they need: the apiserver of this host.
func guard(cfg config.Config) netdev.Guard {
	g := cfg.Network.Guard
	g.APIPort, g.Limits = cfg.API.Port, cfg.Network.Limits()
	g.PodPorts = cfg.Specs.HostPorts()
	return g
}
