package server

import (
	"net/netip"
	"time"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/bootstrap"
	"github.com/nodeless/nodeless/pkg/server/controllermanager"
	"github.com/nodeless/nodeless/pkg/server/credentials"
	"github.com/nodeless/nodeless/pkg/server/cronscaler"
	"github.com/nodeless/nodeless/pkg/server/datastore"
	"github.com/nodeless/nodeless/pkg/server/dns"
	"github.com/nodeless/nodeless/pkg/server/eklet"
	"github.com/nodeless/nodeless/pkg/server/metrics"
	"github.com/nodeless/nodeless/pkg/server/nodekeeper"
	"github.com/nodeless/nodeless/pkg/server/quota"
	"github.com/nodeless/nodeless/pkg/server/recovery"
	"github.com/nodeless/nodeless/pkg/server/scheduler"
	"github.com/nodeless/nodeless/pkg/server/spot"
)

// WorkerFiles are the files that the components of the worker on this host use. Run makes them before it starts any
// component and keeps them fresh.
type WorkerFiles struct {
	KubeletKubeconfig       string
	KubeletCert, KubeletKey string // serving
	ClientCA                string // who may call the kubelet
	ProxyKubeconfig         string
}

// WorkerFiles names them.
func (c Config) WorkerFiles() WorkerFiles {
	cred := credentials.Locate(c.credentials())
	serving := cred.Leaf(pki.KubeletServing)
	return WorkerFiles{
		KubeletKubeconfig: cred.Kubeconfig(pki.KubeletClient),
		KubeletCert:       serving.CertFile(), KubeletKey: serving.KeyFile(),
		ClientCA:        cred.CAFile(pki.ClientCA),
		ProxyKubeconfig: cred.Kubeconfig(pki.KubeProxy),
	}
}

func (c Config) credentials() credentials.Config {
	return credentials.Config{
		TLSDir: c.Data.TLS(), AgentTLSDir: c.Data.AgentTLS(), CredDir: c.Data.Cred(), AdminFile: c.Kubeconfig,
		NodeName: c.NodeName, NodeIPs: c.addresses(), ServiceIP: c.ServiceCIDR.Masked().Addr().Next(), ClusterDomain: c.Domain,
		TLSSANs: c.TLSSANs, BindAddress: c.Bind, Port: c.Port,
	}
}

// addresses are those that clients use for this host.
func (c Config) addresses() []netip.Addr {
	all := []netip.Addr{c.NodeIP, c.DNSBind} // the second is the Node's: the gateway of the host's Pods
	if c.Advertise.IsValid() && c.Advertise != c.NodeIP {
		all = append(all, c.Advertise)
	}
	return all
}

func (c Config) apiserver(cred *credentials.Credentials, endpoint string) apiserver.Config {
	serving, kubelet, proxy := cred.Leaf(pki.APIServer), cred.Leaf(pki.APIServerKubelet), cred.Leaf(pki.FrontProxy)
	conf := apiserver.Config{
		Datastore:          endpoint,
		BindAddress:        c.Bind.String(),
		Port:               c.Port,
		AdvertiseAddress:   c.advertise().String(),
		ServiceCIDR:        c.ServiceCIDR.String(),
		NodePorts:          c.NodePorts,
		ClusterDomain:      c.Domain,
		EncryptionFile:     cred.EncryptionFile(),
		AuthenticationFile: cred.AuthenticationFile(),
		AdmissionFile:      c.Run.Admission(),
		Files: apiserver.Files{
			ServingCert: serving.CertFile(), ServingKey: serving.KeyFile(),
			ClientCA:    cred.CAFile(pki.ClientCA),
			KubeletCA:   cred.CAFile(pki.ServerCA),
			KubeletCert: kubelet.CertFile(), KubeletKey: kubelet.KeyFile(),
			FrontProxyCA: cred.CAFile(pki.FrontProxyCA), FrontProxyUser: pki.UserFrontProxy,
			FrontProxyCert: proxy.CertFile(), FrontProxyKey: proxy.KeyFile(),
			ServiceAccountKey: cred.ServiceAccountKeyFile(),
		},
		Access:    cred.Access(pki.Supervisor),
		ExtraArgs: c.APIServerArgs, Limits: c.Limits,
		Admission: admission.Config{Catalog: c.Serverless.Catalog, Rules: c.Serverless.Rules, Native: c.Serverless.Native, SpotGrace: c.spot(cred).Grace(), Cost: c.cost},
	}
	if !c.NoAudit {
		conf.AuditLog, conf.AuditPolicyFile = c.Data.AuditLog(), c.Run.AuditPolicy()
	}
	return conf
}

// cost is what an hour of a spec costs by the list.
func (c Config) cost(s podsize.Size) (float64, bool) {
	amount, err := c.Serverless.Prices.Cost(s, 3600, 100)
	return float64(amount), err == nil
}

func (c Config) advertise() netip.Addr {
	if c.Advertise.IsValid() {
		return c.Advertise
	}
	return c.NodeIP
}

func (c Config) controllerManager(cred *credentials.Credentials) controllermanager.Config {
	conf := controllermanager.Config{
		Kubeconfig: cred.Kubeconfig(pki.ControllerManager),
		ServerCA:   cred.CAFile(pki.ServerCA), ServerCAKey: cred.CAKeyFile(pki.ServerCA),
		ClientCA: cred.CAFile(pki.ClientCA), ClientCAKey: cred.CAKeyFile(pki.ClientCA),
		ServiceAccountKey: cred.ServiceAccountKeyFile(),
		VolumePlugins:     c.Run.VolumePlugins(),
		Access:            cred.Access(pki.Supervisor),
		ExtraArgs:         c.ControllerManagerArgs,
	}
	if c.Serverless.Native {
		conf.Without = []string{quota.Upstream}
	}
	return conf
}

func (c Config) scheduler(cred *credentials.Credentials, money accounts) scheduler.Config {
	return scheduler.Config{
		Kubeconfig: cred.Kubeconfig(pki.Scheduler), File: c.Run.Scheduler(), SpotReserve: c.Serverless.SpotReserve, Held: money.held, ExtraArgs: c.SchedulerArgs,
	}
}

func (c Config) bootstrap(cred *credentials.Credentials) bootstrap.Config {
	conf := bootstrap.Config{
		Access: cred.Access(pki.Supervisor), Manifests: manifests.System(), Dirs: []string{manifests.SystemDir, manifests.AutoscalingDir, manifests.RolesDir, manifests.BillingDir},
		DNSService: c.DNS, DNSEndpoint: c.DNSBind, AdminUser: cred.AdminUser,
	}
	if c.NoMetrics {
		conf.Absent = []string{manifests.MetricsDir}
	} else {
		conf.Dirs = append(conf.Dirs, manifests.MetricsDir)
	}
	return conf
}

func (c Config) metrics(cred *credentials.Credentials) metrics.Config {
	return metrics.Config{Access: cred.Access(pki.Metrics)}
}

func (c Config) eklet(cred *credentials.Credentials) eklet.Config {
	return eklet.Config{Access: cred.Access(pki.Eklet), Catalog: c.Serverless.Catalog}
}

func (c Config) spot(cred *credentials.Credentials) spot.Config {
	return spot.Config{Access: cred.Access(pki.Spot), Reserve: c.Serverless.SpotReserve, Notice: c.Serverless.SpotNotice}
}

func (c Config) cronScaler(cred *credentials.Credentials) cronscaler.Config {
	return cronscaler.Config{Access: cred.Access(pki.CronScaler), Local: time.Local}
}

func (c Config) datastore() datastore.Config {
	store := datastore.Config{File: c.Data.DBFile(), Socket: c.Run.Kine(), SnapshotInterval: c.SnapshotInterval}
	if c.SnapshotInterval == 0 {
		store.SnapshotInterval = -1
	}
	return store
}

func (c Config) nodeKeeper(cred *credentials.Credentials) nodekeeper.Config {
	return nodekeeper.Config{Access: cred.Access(pki.Supervisor), NodeName: c.NodeName}
}

func (c Config) recovery(cred *credentials.Credentials, lost func() string) recovery.Config {
	return recovery.Config{Access: cred.Access(pki.Supervisor), NodeName: c.NodeName, RestoredFile: c.Data.Restored(), Lost: lost}
}

func (c Config) dns(cred *credentials.Credentials) dns.Config {
	return dns.Config{Address: c.DNSBind, Port: 53, Domain: c.Domain, Kubeconfig: cred.Kubeconfig(pki.DNS), ResolvConf: dns.HostResolvConf()}
}
