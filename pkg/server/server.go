// Package server is the role of a host that carries the control plane: the list of its components in start order.
// pkg/cli calls Run, and passes the components of pkg/worker in for the same process.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	billingapi "github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/kube/overhead"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
	"github.com/nodeless/nodeless/pkg/server/billing"
	"github.com/nodeless/nodeless/pkg/server/bootstrap"
	"github.com/nodeless/nodeless/pkg/server/controllermanager"
	"github.com/nodeless/nodeless/pkg/server/credentials"
	"github.com/nodeless/nodeless/pkg/server/cronscaler"
	"github.com/nodeless/nodeless/pkg/server/datastore"
	"github.com/nodeless/nodeless/pkg/server/dns"
	"github.com/nodeless/nodeless/pkg/server/eklet"
	"github.com/nodeless/nodeless/pkg/server/heap"
	"github.com/nodeless/nodeless/pkg/server/logbridge"
	"github.com/nodeless/nodeless/pkg/server/metrics"
	"github.com/nodeless/nodeless/pkg/server/nodekeeper"
	"github.com/nodeless/nodeless/pkg/server/quota"
	"github.com/nodeless/nodeless/pkg/server/recovery"
	"github.com/nodeless/nodeless/pkg/server/scheduler"
	"github.com/nodeless/nodeless/pkg/server/spot"
)

// stopTimeout is what each component has to stop in.
const stopTimeout = 10 * time.Second

// Config is what the role needs to know.
type Config struct {
	Data       datadir.Dir
	Run        datadir.RunDir
	Kubeconfig string // the administrator's, written at start

	NodeName string
	NodeIP   netip.Addr

	Bind      netip.Addr // of the apiserver
	Port      int
	Advertise netip.Addr // NodeIP when not set
	Limits    apiserver.Limits
	TLSSANs   []string
	Datastore string // etcd endpoint; SQLite in the data dir when empty
	// SnapshotInterval is the time between two copies of the SQLite file; none are made when it is 0.
	SnapshotInterval time.Duration

	ServiceCIDR netip.Prefix
	NodePorts   string     // "30000-32767"
	DNS         netip.Addr // address of the Service kube-dns
	DNSBind     netip.Addr // address of this host that the name server binds
	Domain      string
	NoDNS       bool
	NoMetrics   bool
	NoAudit     bool

	Serverless Serverless

	APIServerArgs, ControllerManagerArgs, SchedulerArgs []string // "name=value"
	Verbosity                                           int      // of the linked Kubernetes
}

// Serverless is what Pods can be, may do and cost.
type Serverless struct {
	Catalog podsize.Catalog
	Prices  price.Table
	Rules   rules.Settings // what admission lets through
	// Native leaves the figures of Pods, quotas and QoS classes to Kubernetes: specs are for the bill alone.
	Native bool
	// SpotReserve is the percentage of each host that spot Pods leave free, SpotNotice the time between telling one and ending it.
	SpotReserve int
	SpotNotice  time.Duration
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	for name, ok := range map[string]bool{
		"data dir": c.Data != "", "run dir": c.Run != "", "kubeconfig": c.Kubeconfig != "", "node name": c.NodeName != "",
		"node address": c.NodeIP.IsValid(), "bind address": c.Bind.IsValid(), "service range": c.ServiceCIDR.IsValid(),
		"DNS service address": c.DNS.IsValid(), "DNS bind address": c.DNSBind.IsValid(), "cluster domain": c.Domain != "",
	} {
		if !ok {
			errs = append(errs, fmt.Errorf("server: no %s", name))
		}
	}
	if c.ServiceCIDR.IsValid() && c.DNS.IsValid() && !c.ServiceCIDR.Contains(c.DNS) {
		errs = append(errs, fmt.Errorf("server: DNS service address %s is outside the service range %s", c.DNS, c.ServiceCIDR))
	}
	return errors.Join(errs...)
}

// Run prepares the data dir and runs the control plane, and worker with it, until ctx ends or a component fails.
//
// worker's components may come after "apiserver" and "bootstrap". Three of their names are known here: the name server
// comes after "network", which gives the host its address, and after "proxy"; "kubelet" comes after the controller-manager
// has set up its volume plugins.
func Run(ctx context.Context, cfg Config, worker []run.Step, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := cfg.Data.Prepare(); err != nil {
		return err
	}
	if err := cfg.Run.Prepare(); err != nil {
		return err
	}
	overhead.Once()
	if err := logbridge.Install(ctx, log, cfg.Verbosity); err != nil {
		return err
	}
	cred, err := credentials.Prepare(cfg.credentials(), log)
	if err != nil {
		return err
	}
	money, err := openAccounts(ctx, cfg.Data)
	if err != nil {
		return err
	}
	return errors.Join(run.All(ctx, log, stopTimeout, steps(cfg, cred, money, worker, log)...), money.close())
}

// steps lists the components in start order.
func steps(cfg Config, cred *credentials.Credentials, money accounts, worker []run.Step, log *slog.Logger) []run.Step {
	var list []run.Step
	endpoint := cfg.Datastore
	lost := func() string { return "" }
	var room bounds.Room
	if endpoint == "" {
		store := cfg.datastore()
		endpoint = store.Endpoint()
		component := datastore.New(store, log)
		room = component.Room
		lost = func() string {
			if r := component.Recovered(); r != nil {
				return r.String()
			}
			return ""
		}
		list = append(list, run.Step{Component: component})
	}
	api, measure, charge := cfg.apiserver(cred, endpoint), metrics.New(cfg.metrics(cred), log), billing.New(cfg.billing(money), log)
	api.Room = room
	memory := heap.New(log)
	api.Relisted = memory.Soon
	api.Groups, api.Definitions = append(api.Groups, charge.Group()), append(api.Definitions, billingapi.Definitions)
	if !cfg.NoMetrics {
		api.Groups = append(api.Groups, measure.Group(), measure.CustomGroup())
	}
	list = append(list,
		run.Step{Component: logbridge.NewFatal()},
		run.Step{Component: apiserver.New(api, log), After: names(list)},
		run.Step{Component: cred.Renewer()},
		run.Step{Component: memory},
		run.Step{Component: meter.NewCollector(cfg.collector(money), money.ledger, log)},
		run.Step{Component: charge, After: []string{"meter"}},
		run.Step{Component: controllermanager.New(cfg.controllerManager(cred), log), After: []string{"apiserver"}},
		run.Step{Component: bootstrap.New(cfg.bootstrap(cred), log), After: []string{"apiserver"}},
		run.Step{Component: eklet.New(cfg.eklet(cred), log), After: []string{"bootstrap"}},
		run.Step{Component: spot.New(cfg.spot(cred), log), After: []string{"bootstrap"}},
		run.Step{Component: recovery.New(cfg.recovery(cred, lost), log), After: []string{"bootstrap"}},
		run.Step{Component: cronscaler.New(cfg.cronScaler(cred), log), After: []string{"bootstrap"}},
	)
	if cfg.Serverless.Native {
		list = append(list, run.Step{Component: quota.New(quota.Config{Access: cred.Access(pki.Supervisor), Class: admission.RuntimeClass}, log), After: []string{"apiserver"}})
	}
	if slices.Contains(names(worker), "kubelet") {
		list = append(list, run.Step{Component: controllermanager.NewVolumePlugins(log), After: []string{"apiserver"}})
		list = append(list, run.Step{Component: nodekeeper.New(cfg.nodeKeeper(cred), log), After: []string{"apiserver"}})
		worker = after("kubelet", "volume-plugins", worker)
	}
	list = append(list, worker...)
	if !cfg.NoDNS {
		needs := []string{"bootstrap"}
		for _, name := range []string{"network", "proxy"} {
			if slices.Contains(names(worker), name) {
				needs = append(needs, name)
			}
		}
		list = append(list, run.Step{Component: dns.New(cfg.dns(cred), log), After: needs})
	}
	needs := []string{"apiserver"}
	if len(worker) > 0 {
		list = append(list, run.Step{Component: bootstrap.NewSchedulableNode(cred.Access(pki.Supervisor), log), After: needs})
		needs = []string{"schedulable-node"}
	}
	if !cfg.NoMetrics {
		list = append(list, run.Step{Component: measure, After: append([]string{"bootstrap"}, needs...)})
	}
	return append(list, run.Step{Component: scheduler.New(cfg.scheduler(cred, money), log), After: needs})
}

// after makes the step called name come after one more.
func after(name, need string, steps []run.Step) []run.Step {
	steps = slices.Clone(steps)
	for i := range steps {
		if steps[i].Name() == name {
			steps[i].After = append(slices.Clone(steps[i].After), need)
		}
	}
	return steps
}

func names(steps []run.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Name())
	}
	return out
}
