package cis

import (
	"io/fs"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/preflight"
)

// Facts is what the benchmark is about.
type Facts struct {
	Now   time.Time
	Root  fs.FS // the host's files from "/"
	Files Files

	APIServer         Flags
	ControllerManager Flags
	Scheduler         Flags
	Proxy             Flags // empty: kube-proxy was left out
	Kubelet           Kubelet
	Cluster           *Cluster // nil: no server answers
	OwnDatastore      bool     // SQLite in the server's process, and not a datastore elsewhere
}

// Files are absolute paths of what the server has written. What is not there is not judged.
type Files struct {
	Datastore  string   // the folder of the database
	Kubeconfig string   // the administrator's
	TLS        []string // folders of certificates and keys
	Cred       string   // the folder of the components' kubeconfigs and of the key of Secrets
	Encryption string   // the apiserver's encryption settings, in Cred
	CNI        []string // folders of the network's settings and allocations
	Unit       []string // the service
}

// Kubelet is what of the kubelet's settings the benchmark asks for. The names are those under which the kubelet tells them.
type Kubelet struct {
	Authentication struct {
		Anonymous struct {
			Enabled bool `json:"enabled"`
		} `json:"anonymous"`
		Webhook struct {
			Enabled bool `json:"enabled"`
		} `json:"webhook"`
		X509 struct {
			ClientCAFile string `json:"clientCAFile"`
		} `json:"x509"`
	} `json:"authentication"`
	Authorization struct {
		Mode string `json:"mode"`
	} `json:"authorization"`
	ReadOnlyPort           int32    `json:"readOnlyPort"`
	StreamingIdle          string   `json:"streamingConnectionIdleTimeout"`
	MakeIPTablesUtilChains bool     `json:"makeIPTablesUtilChains"`
	EventRecordQPS         int32    `json:"eventRecordQPS"`
	TLSCertFile            string   `json:"tlsCertFile"`
	TLSPrivateKeyFile      string   `json:"tlsPrivateKeyFile"`
	TLSCipherSuites        []string `json:"tlsCipherSuites"`
	PodPidsLimit           int64    `json:"podPidsLimit"`
	ImageCredentials       string   `json:"imagePullCredentialsVerificationPolicy"`
}

// Cluster is what of the cluster's objects the benchmark asks for.
type Cluster struct {
	ClusterAdmins    []string // bindings to cluster-admin beside Kubernetes' own and the administrator's
	WildcardRoles    []string // roles of neither Kubernetes nor this server that allow everything
	DefaultAccounts  []string // namespaces whose default account's token is mounted into Pods
	InDefault        int      // Pods in the namespace default
	WithoutQuota     []string // namespaces of users without a ResourceQuota
	TenantNamespaces int
}

// Flags are the arguments of a component, by name.
type Flags map[string][]string

// ParseFlags reads arguments of the form --name=value.
func ParseFlags(args []string) Flags {
	f := Flags{}
	for _, arg := range args {
		name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !given {
			value = "true"
		}
		f[name] = append(f[name], value)
	}
	return f
}

// last is the value that counts of an argument with one value; "" when it is not given.
func (f Flags) last(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// list is all values of an argument that takes several.
func (f Flags) list(name string) []string {
	var all []string
	for _, v := range f[name] {
		all = append(all, strings.Split(v, ",")...)
	}
	return all
}

// check is one recommendation, or several that are answered alike.
type check struct {
	number, text string
	look         func(Facts) verdict
}

// verdict is how a recommendation stands.
type verdict struct {
	status     preflight.Status
	detail, do string
}

func pass(detail string) verdict       { return verdict{status: preflight.Pass, detail: detail} }
func warn(detail, do string) verdict   { return verdict{preflight.Warn, detail, do} }
func notApplicable(why string) verdict { return verdict{status: preflight.NotApplicable, detail: why} }

// never is a recommendation that says nothing about this product, whatever the facts.
func never(number, text, why string) check {
	return check{number, text, func(Facts) verdict { return notApplicable(why) }}
}

// Run answers every recommendation in order.
func Run(f Facts) preflight.Report {
	var r preflight.Report
	for _, part := range [][]check{controlFiles(), apiserver(), controllers(), datastore(), logging(), workerFiles(), kubelet(), policies()} {
		for _, c := range part {
			v := c.look(f)
			r.Results = append(r.Results, preflight.Result{Name: c.number + " " + c.text, Status: v.status, Detail: v.detail, Do: v.do})
		}
	}
	return r
}
