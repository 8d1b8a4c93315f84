package apiserver

import (
	"errors"
	"fmt"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
)

// Config says where the apiserver listens, what it stores in, and which files prove identities.
type Config struct {
	Datastore          string // etcd endpoint
	BindAddress        string
	Port               int
	AdvertiseAddress   string // the node's address
	ServiceCIDR        string
	NodePorts          string // "30000-32767"
	ClusterDomain      string
	EncryptionFile     string
	AuthenticationFile string // written by Run
	AdmissionFile      string // written by Run
	AuditLog           string // none is kept when it is empty
	AuditPolicyFile    string // written by Run
	Files              Files
	Access             kube.Access // for Ready
	ExtraArgs          []string    // "name=value", after ours
	Admission          admission.Config
	Limits             Limits
	Room               bounds.Room                      // nil for a database that does not say
	Relisted           func()                           // called when a cache has given up what is no more; nil for nobody
	Groups             []*genericapiserver.APIGroupInfo // APIs of this process, served beside Kubernetes' own
	Definitions        []common.GetOpenAPIDefinitions   // of their kinds, but of those that Kubernetes itself describes
}

// Limits is how much each may have open. 0 is no limit.
type Limits struct {
	Requests int // that last, of each user
	Conns    int // of each address
}

// Files are certificates and keys. They are read again when they are renewed.
type Files struct {
	ServingCert, ServingKey       string
	ClientCA                      string
	KubeletCA                     string
	KubeletCert, KubeletKey       string
	FrontProxyCA, FrontProxyUser  string
	FrontProxyCert, FrontProxyKey string
	ServiceAccountKey             string
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for name, value := range map[string]string{
		"datastore": c.Datastore, "bind address": c.BindAddress, "advertise address": c.AdvertiseAddress, "service CIDR": c.ServiceCIDR, "node ports": c.NodePorts,
		"cluster domain": c.ClusterDomain, "encryption file": c.EncryptionFile, "authentication file": c.AuthenticationFile, "admission file": c.AdmissionFile,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("apiserver: no %s", name))
		}
	}
	if c.AuditLog != "" && c.AuditPolicyFile == "" {
		errs = append(errs, errors.New("apiserver: no audit policy file"))
	}
	if c.Limits.Requests < 0 || c.Limits.Conns < 0 {
		errs = append(errs, fmt.Errorf("apiserver: %d requests of each user or %d connections of each address are less than none", c.Limits.Requests, c.Limits.Conns))
	}
	if c.Port < 1 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("apiserver: port %d is not between 1 and 65535", c.Port))
	}
	return errors.Join(errs...)
}
