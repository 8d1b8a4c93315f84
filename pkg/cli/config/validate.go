package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/server/apiserver/guard/defaults"
)

// kubeletPort is the kubelet's; the apiserver cannot have it.
const kubeletPort = 10250

// maxPods is what the host's Pod range, a /24, has room for.
const maxPods = 253

// maxDomain leaves room in a DNS name for a Service and a namespace, of 63 characters each, and "svc".
const maxDomain = validation.DNS1123SubdomainMaxLength - 2*(validation.DNS1123LabelMaxLength+1) - len("svc.")

// maxSocket is how long the path of a unix socket can be, without the zero at its end.
const maxSocket = 107

// maxOvercommit is beyond what any host does well.
const maxOvercommit = 64

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	errs = append(errs, c.Paths.faults()...)
	errs = append(errs, c.Node.faults()...)
	errs = append(errs, c.API.faults()...)
	errs = append(errs, c.Network.faults()...)
	errs = append(errs, c.Specs.faults()...)
	errs = append(errs, c.Extra.faults()...)
	errs = append(errs, c.crossFaults()...)
	for _, d := range c.Disable {
		if !slices.Contains(Parts, d) {
			errs = append(errs, invalid("disable", d, "there is no such part", "choose of "+strings.Join(Parts, ", ")))
		}
	}
	return errors.Join(errs...)
}

func invalid(name string, value any, why, do string) error {
	return &hint.Error{Op: "check " + name, On: fmt.Sprintf("%q", fmt.Sprint(value)), Err: errors.New(why), Do: do}
}

func (s Specs) faults() (errs []error) {
	for _, f := range []struct{ name, path string }{{"catalog", s.Catalog}, {"prices", s.Prices}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			errs = append(errs, invalid(f.name, f.path, "not an absolute path", "give "+f.name+" a path that begins with /"))
		}
	}
	if s.SpotReserve < 0 || s.SpotReserve > 100 {
		errs = append(errs, invalid("spot-reserve", s.SpotReserve, "out of range", "choose 0 to 100 percent"))
	}
	if s.SpotNotice < 0 {
		errs = append(errs, invalid("spot-notice", s.SpotNotice, "less than nothing", "choose a time such as 2m, or 0s for none"))
	}
	if policies := []string{"park", denied, "run", "inject"}; !slices.Contains(policies, s.DaemonSets) {
		errs = append(errs, invalid("daemonsets", s.DaemonSets, "no such policy", "choose of "+strings.Join(policies, ", ")))
	}
	if ways := []string{sizingSpec, sizingNative}; !slices.Contains(ways, s.Sizing) {
		errs = append(errs, invalid("sizing", s.Sizing, "no such way to size Pods", "choose of "+strings.Join(ways, ", ")))
	}
	if policies := []string{denied, allowed}; !slices.Contains(policies, s.HostPort) {
		errs = append(errs, invalid("host-port", s.HostPort, "no such policy", "choose of "+strings.Join(policies, ", ")))
	}
	return append(errs, s.namespaceFaults()...)
}

// Native tells that Pods keep their own figures.
func (s Specs) Native() bool { return s.Sizing == sizingNative }

// HostPorts tells that Pods may have ports of their host.
func (s Specs) HostPorts() bool { return s.HostPort == allowed }

const (
	sizingSpec   = "spec"
	sizingNative = "native"
	allowed      = "allow" // the policy that lets all in
)

// denied is the policy that lets nothing in.
const denied = "deny"

// HostPathNamespaces are those whose Pods may have paths of the host.
func (s Specs) HostPathNamespaces() []string {
	if slices.Equal(s.HostPath, []string{denied}) {
		return nil
	}
	return s.HostPath
}

func (s Specs) namespaceFaults() (errs []error) {
	for _, f := range []struct {
		name   string
		values []string
	}{{"daemonsets-from", s.InjectFrom}, {"host-path", s.HostPathNamespaces()}} {
		for _, value := range f.values {
			switch {
			case value == "allow" && f.name == "host-path":
				errs = append(errs, invalid(f.name, value, "no longer for all of a cluster: it gave every tenant the host", "name the namespaces that may have folders of the host: host-path=tools,backup"))
			case value == denied || len(validation.IsDNS1123Label(value)) > 0:
				errs = append(errs, invalid(f.name, value, "cannot be a namespace", "name namespaces, with commas between them"))
			}
		}
	}
	return errs
}

func (p Paths) faults() (errs []error) {
	for _, f := range []struct{ name, path string }{
		{"data-dir", string(p.Data)}, {"run-dir", string(p.Run)}, {"write-kubeconfig", p.Kubeconfig}, {"private-registry", p.Registries},
	} {
		if !filepath.IsAbs(f.path) {
			errs = append(errs, invalid(f.name, f.path, "not an absolute path", "give "+f.name+" a path that begins with /"))
		}
	}
	for _, socket := range []string{p.Run.Kine(), p.Run.ContainerdSocket() + ".ttrpc", p.Run.CRI()} {
		if len(socket) > maxSocket {
			errs = append(errs, invalid("run-dir", p.Run, fmt.Sprintf("too long: the path of a socket in it, %s, has more than %d bytes", filepath.Base(socket), maxSocket), "choose a shorter path"))
			break
		}
	}
	if p.Data != "" && string(p.Data) == string(p.Run) {
		errs = append(errs, invalid("run-dir", p.Run, "the same as data-dir", "give each its own folder"))
	}
	return errs
}

func (n Node) faults() (errs []error) {
	if n.Name != "" {
		bad := append(validation.IsDNS1123Subdomain(n.Name), validation.IsValidLabelValue(n.Name)...) // the kubelet has it as a label, too
		if len(bad) > 0 {
			errs = append(errs, invalid("node-name", n.Name, "not a valid node name", "use lower-case letters, digits, '-' and '.', at most 63 of them"))
		}
	}
	if n.IP.IsValid() && (n.IP.IsLoopback() || n.IP.IsUnspecified() || n.IP.IsMulticast()) {
		errs = append(errs, invalid("node-ip", n.IP, "not an address that others can reach", "give an address of one of the host's interfaces"))
	}
	if n.CPUOvercommit < 1 || n.CPUOvercommit > maxOvercommit {
		errs = append(errs, invalid("cpu-overcommit", n.CPUOvercommit, "out of range", fmt.Sprintf("choose 1 (each Pod has its CPUs to itself) to %d", maxOvercommit)))
	}
	if n.PullTimeout < 0 {
		errs = append(errs, invalid("pull-timeout", n.PullTimeout, "less than nothing", "choose a time such as 1h, or 0s for none"))
	}
	if n.PullRate < 0 {
		errs = append(errs, invalid("pull-rate", n.PullRate, "less than nothing", "choose KiB a second such as 16, or 0 for any"))
	}
	if n.DiskReserve < 0 || n.DiskReserve > 90 {
		errs = append(errs, invalid("disk-reserve", n.DiskReserve, "out of range", "choose 1 to 90 percent, or 0 for no reserve"))
	}
	for name, most := range map[string]int{"pod-disk-bandwidth": n.DiskBandwidth, "pod-disk-iops": n.DiskIOPS, "pod-log-rate": n.LogRate} {
		if most < 0 || most > 1<<30 {
			errs = append(errs, invalid(name, most, "out of range", "give what a Pod may have each second, or 0 for no bound"))
		}
	}
	if n.MaxPods < 1 || n.MaxPods > maxPods {
		errs = append(errs, invalid("max-pods", n.MaxPods, "out of range", fmt.Sprintf("choose 1 to %d: the host's Pod range is a /24", maxPods)))
	}
	if !filepath.IsAbs(n.CgroupRoot) || filepath.Clean(n.CgroupRoot) == "/" {
		errs = append(errs, invalid("cgroup-root", n.CgroupRoot, "not a cgroup of its own", "give a path such as /nodeless"))
	}
	if !slices.Contains([]string{"auto", "kvm", "tcg", "any"}, n.Accel) {
		errs = append(errs, invalid("accel", n.Accel, "no such way to run a microVM", "choose auto, kvm, tcg or any"))
	}
	if !slices.Contains([]string{"keep", "advise"}, n.HugePages) {
		errs = append(errs, invalid("huge-pages", n.HugePages, "no such use of huge pages", "choose keep or advise"))
	}
	for name, path := range map[string]string{"runc-path": n.RuncPath, "runc-shim-path": n.RuncShimPath} {
		if path != "" && !filepath.IsAbs(path) {
			errs = append(errs, invalid(name, path, "not an absolute path", "give the full path of the program"))
		}
	}
	return errs
}

func (a API) faults() (errs []error) {
	if a.Port < 1 || a.Port > 65535 {
		errs = append(errs, invalid("https-listen-port", a.Port, "not a port", "choose 1 to 65535"))
	}
	if a.Port == kubeletPort {
		errs = append(errs, invalid("https-listen-port", a.Port, "the kubelet's port", "choose another one, 6443 is usual"))
	}
	if a.Advertise.IsValid() && (a.Advertise.IsLoopback() || a.Advertise.IsUnspecified()) {
		errs = append(errs, invalid("advertise-address", a.Advertise, "Pods cannot reach it", "give an address of one of the host's interfaces"))
	}
	if d := a.SnapshotInterval; d != 0 && d < time.Second {
		errs = append(errs, invalid("snapshot-interval", d, "too short", "choose a second or more, an hour is usual, or 0 for no snapshots"))
	}
	if a.MaxRequests < 0 {
		errs = append(errs, invalid("max-open-requests", a.MaxRequests, "less than none", fmt.Sprintf("give a number, %d is usual, or 0 for no limit", defaults.Requests)))
	}
	if a.MaxConns < 0 {
		errs = append(errs, invalid("max-connections", a.MaxConns, "less than none", fmt.Sprintf("give a number, %d is usual, or 0 for no limit", defaults.Conns)))
	}
	for _, san := range a.TLSSANs {
		if _, err := netip.ParseAddr(san); err == nil {
			continue
		}
		if len(validation.IsDNS1123Subdomain(san)) > 0 && len(validation.IsWildcardDNS1123Subdomain(san)) > 0 {
			errs = append(errs, invalid("tls-san", san, "neither a name nor an address", "give a DNS name or an IP address"))
		}
	}
	for _, url := range strings.Split(a.Datastore, ",") {
		if url != "" && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "unix://") {
			errs = append(errs, invalid("datastore-endpoint", url, "not an etcd URL", "give http://, https:// or unix:// URLs of etcd, or leave it out for SQLite"))
		}
	}
	return errs
}

func (n Network) faults() (errs []error) {
	for _, r := range []struct {
		name     string
		prefix   netip.Prefix
		min, max int
	}{{"cluster-cidr", n.ClusterCIDR, 8, 24}, {"service-cidr", n.ServiceCIDR, 12, 28}} {
		switch p := r.prefix; {
		case !p.IsValid():
			errs = append(errs, invalid(r.name, p, "not an address range", "give a range such as 10.42.0.0/16"))
		case !p.Addr().Is4():
			errs = append(errs, invalid(r.name, p, "not an IPv4 range", "give a range such as 10.42.0.0/16"))
		case p.Masked() != p:
			errs = append(errs, invalid(r.name, p, "has host bits set", "write "+p.Masked().String()))
		case p.Bits() < r.min || p.Bits() > r.max:
			errs = append(errs, invalid(r.name, p, "has no fitting size", fmt.Sprintf("choose a size of /%d to /%d", r.min, r.max)))
		}
	}
	if n.ClusterCIDR.IsValid() && n.ServiceCIDR.IsValid() && n.ClusterCIDR.Overlaps(n.ServiceCIDR) {
		errs = append(errs, invalid("service-cidr", n.ServiceCIDR, fmt.Sprintf("overlaps cluster-cidr %s", n.ClusterCIDR), "choose two separate ranges"))
	}
	if n.ServiceCIDR.IsValid() {
		first := n.ServiceCIDR.Masked().Addr()
		if !n.ServiceCIDR.Contains(n.DNS) || n.DNS == first {
			errs = append(errs, invalid("cluster-dns", n.DNS, fmt.Sprintf("outside of service-cidr %s", n.ServiceCIDR), "give an address inside it, the tenth is usual"))
		} else if n.DNS == first.Next() {
			errs = append(errs, invalid("cluster-dns", n.DNS, "the address of Service default/kubernetes", "give a later address, the tenth is usual"))
		}
	}
	if bad := validation.IsDNS1123Subdomain(n.Domain); len(bad) > 0 {
		errs = append(errs, invalid("cluster-domain", n.Domain, "not a DNS domain", "cluster.local is usual"))
	} else if len(n.Domain) > maxDomain {
		errs = append(errs, invalid("cluster-domain", n.Domain, "too long for names of Services below it", fmt.Sprintf("choose one of at most %d characters; cluster.local is usual", maxDomain)))
	}
	if r := n.NodePorts; r.Low < 1 || r.High > 65535 || r.Low > r.High {
		errs = append(errs, invalid("service-node-port-range", r, "not a port range", "30000-32767 is usual"))
	}
	return slices.Concat(errs, n.nodePortFaults(), guardFaults(n.Guard), n.bandwidthFaults())
}

func (n Network) nodePortFaults() (errs []error) {
	for _, p := range n.NodePortsAt {
		switch {
		case !p.Addr().Is4():
			errs = append(errs, invalid("nodeport-addresses", p, "not an IPv4 range", "give a range such as 192.0.2.0/24"))
		case p.Addr().IsLoopback():
			errs = append(errs, invalid("nodeport-addresses", p, "node ports are not open at the loopback", "give a range of the host's other addresses, such as 192.0.2.0/24"))
		}
	}
	return errs
}

func guardFaults(g netdev.Guard) (errs []error) {
	for _, r := range []struct {
		name string
		list []netip.Prefix
	}{{"pod-deny-cidr", g.Denied}, {"pod-allow-from", g.AllowFrom}} {
		for _, p := range r.list {
			if !p.Addr().Is4() {
				errs = append(errs, invalid(r.name, p, "not an IPv4 range", "give a range such as 192.0.2.0/24"))
			}
		}
	}
	for _, text := range g.HostPorts {
		if _, _, err := netdev.ParsePort(text); err != nil {
			errs = append(errs, invalid("pod-host-port", text, "not a port of a protocol", "write it as in 5432/tcp or 514/udp"))
		}
	}
	for _, l := range []struct {
		name  string
		value int
	}{{"pod-max-flows", g.Limits.Flows}, {"pod-new-flows", g.Limits.NewFlows}, {"pod-packets", g.Limits.Packets}} {
		if l.value < 0 || l.value > math.MaxInt32/10 {
			errs = append(errs, invalid(l.name, l.value, "out of range", "choose a number above 0, or 0 for no limit"))
		}
	}
	return errs
}

func (n Network) bandwidthFaults() (errs []error) {
	if most := netdev.MaxBandwidth / mbit; n.Bandwidth < 0 || n.Bandwidth > most {
		errs = append(errs, invalid("pod-bandwidth", n.Bandwidth, "out of range", fmt.Sprintf("choose 1 to %d Mbit a second, or 0 for no limit", most)))
	}
	return errs
}

func (x ExtraArgs) faults() (errs []error) {
	for _, group := range []struct {
		name string
		args []string
	}{
		{"kube-apiserver-arg", x.APIServer}, {"kube-controller-manager-arg", x.ControllerManager},
		{"kube-scheduler-arg", x.Scheduler}, {"kubelet-arg", x.Kubelet}, {"kube-proxy-arg", x.Proxy},
	} {
		for _, a := range group.args {
			if name, _, ok := strings.Cut(a, "="); !ok || strings.Trim(name, "-") == "" {
				errs = append(errs, invalid(group.name, a, "not name=value", "write it as in --"+group.name+" v=2"))
			}
		}
	}
	return errs
}

// crossFaults are those that show only when two groups are seen together.
func (c Config) crossFaults() (errs []error) {
	if c.Network.NodePorts.Contains(c.API.Port) {
		errs = append(errs, invalid("https-listen-port", c.API.Port, "inside service-node-port-range "+c.Network.NodePorts.String(), "choose a port outside of it"))
	}
	for _, r := range []struct {
		name   string
		prefix netip.Prefix
	}{{"cluster-cidr", c.Network.ClusterCIDR}, {"service-cidr", c.Network.ServiceCIDR}} {
		if c.Node.IP.IsValid() && r.prefix.IsValid() && r.prefix.Contains(c.Node.IP) {
			errs = append(errs, invalid("node-ip", c.Node.IP, fmt.Sprintf("inside %s %s", r.name, r.prefix), "choose a "+r.name+" that the host's network does not use"))
		}
	}
	return errs
}
