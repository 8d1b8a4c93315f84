package pki

import (
	"net"
	"slices"
	"time"
)

// Names of the certificates of a host that runs the control plane and Pods.
const (
	APIServer           = "apiserver"
	APIServerKubelet    = "apiserver-kubelet-client"
	Admin               = "admin"
	Supervisor          = "supervisor"
	ControllerManager   = "controller-manager"
	Scheduler           = "scheduler"
	DNS                 = "dns"
	Metrics             = "metrics"
	Eklet               = "eklet"
	Spot                = "spot"
	CronScaler          = "cronscaler"
	FrontProxy          = "front-proxy-client"
	KubeletClient       = "kubelet-client"
	KubeletServing      = "kubelet-serving"
	KubeProxy           = "kube-proxy"
	UserAPIServer       = "nodeless:apiserver-kubelet-client" // bound to system:kubelet-api-admin in manifests
	UserDNS             = "nodeless:dns"                      // bound to nodeless:dns in manifests
	UserMetrics         = "nodeless:metrics"                  // bound to nodeless:metrics in manifests
	UserEklet           = "nodeless:eklet"                    // bound to nodeless:eklet in manifests
	UserSpot            = "nodeless:spot"                     // bound to nodeless:spot in manifests
	UserCronScaler      = "nodeless:cronscaler"               // bound to nodeless:cronscaler in manifests
	UserFrontProxy      = "nodeless:front-proxy-client"
	UserSupervisor      = "nodeless:supervisor"
	UserAdmin           = "nodeless:admin" // and the fingerprint of its key; bound to cluster-admin in manifests
	groupAdministrators = "system:masters"
)

// SupervisorLife is short: nobody can take the rights of system:masters away from who has a copy of the certificate. The apiserver takes no
// certificate for that group which was made to live longer.
const SupervisorLife = 24 * time.Hour

// Host is what the certificates of a host depend on.
type Host struct {
	TLSDir        string // of the control plane
	AgentTLSDir   string // of the kubelet and kube-proxy
	NodeName      string
	NodeIPs       []net.IP
	ServiceIP     net.IP // of the Service kubernetes.default
	ClusterDomain string
	ExtraSANs     []string // names and addresses that clients use for the apiserver besides
}

// Leaves lists every certificate of the host.
func (h Host) Leaves() []Leaf {
	names, ips := h.apiserverNames()
	node := "system:node:" + h.NodeName
	client := func(dir, name string, signer Authority, user, group string) Leaf {
		return Leaf{Name: name, Dir: dir, Signer: signer, CommonName: user, Organization: group}
	}
	return []Leaf{
		{Name: APIServer, Dir: h.TLSDir, Signer: ServerCA, CommonName: "kube-apiserver", DNSNames: names, IPs: ips},
		client(h.TLSDir, APIServerKubelet, ClientCA, UserAPIServer, ""),
		{Name: Admin, Dir: h.TLSDir, Signer: ClientCA, CommonName: UserAdmin, Keyed: true},
		// The supervisor acts before there is any role, and mends bindings that are lost. Its key never leaves the host.
		{Name: Supervisor, Dir: h.TLSDir, Signer: ClientCA, CommonName: UserSupervisor, Organization: groupAdministrators, Life: SupervisorLife},
		client(h.TLSDir, ControllerManager, ClientCA, "system:kube-controller-manager", ""),
		client(h.TLSDir, Scheduler, ClientCA, "system:kube-scheduler", ""),
		client(h.TLSDir, DNS, ClientCA, UserDNS, ""),
		client(h.TLSDir, Metrics, ClientCA, UserMetrics, ""),
		client(h.TLSDir, Eklet, ClientCA, UserEklet, ""),
		client(h.TLSDir, Spot, ClientCA, UserSpot, ""),
		client(h.TLSDir, CronScaler, ClientCA, UserCronScaler, ""),
		client(h.TLSDir, FrontProxy, FrontProxyCA, UserFrontProxy, ""),
		client(h.AgentTLSDir, KubeletClient, ClientCA, node, "system:nodes"),
		{Name: KubeletServing, Dir: h.AgentTLSDir, Signer: ServerCA, CommonName: node, Organization: "system:nodes",
			DNSNames: []string{h.NodeName}, IPs: h.NodeIPs},
		client(h.AgentTLSDir, KubeProxy, ClientCA, "system:kube-proxy", ""),
	}
}

// Leaf gives the certificate called name; it is one of the constants above.
func (h Host) Leaf(name string) Leaf {
	leaves := h.Leaves()
	i := slices.IndexFunc(leaves, func(l Leaf) bool { return l.Name == name })
	if i < 0 {
		return Leaf{}
	}
	return leaves[i]
}

func (h Host) apiserverNames() ([]string, []net.IP) {
	names := []string{"localhost", h.NodeName, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + h.ClusterDomain}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, h.ServiceIP}
	ips = append(ips, h.NodeIPs...)
	for _, san := range h.ExtraSANs {
		if ip := net.ParseIP(san); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, san)
		}
	}
	return sorted(names), uniqueIPs(ips)
}

func uniqueIPs(ips []net.IP) []net.IP {
	var out []net.IP
	for _, ip := range ips {
		if ip != nil && !slices.ContainsFunc(out, ip.Equal) {
			out = append(out, ip)
		}
	}
	return out
}
