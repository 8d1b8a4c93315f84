// Package credentials lays out what a server needs before its first component starts: certificates, kubeconfigs
// and the key that encrypts Secrets. pkg/server calls Prepare once and runs the Renewer that it gives.
package credentials

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/pki"
)

// Config says for whom and where.
type Config struct {
	TLSDir        string
	AgentTLSDir   string
	CredDir       string
	AdminFile     string // kubeconfig of the administrator
	NodeName      string
	NodeIPs       []netip.Addr
	ServiceIP     netip.Addr // of the Service kubernetes.default
	ClusterDomain string
	TLSSANs       []string
	BindAddress   netip.Addr // of the apiserver
	Port          int
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for name, value := range map[string]string{
		"TLS dir": c.TLSDir, "agent TLS dir": c.AgentTLSDir, "credentials dir": c.CredDir, "kubeconfig": c.AdminFile,
		"node name": c.NodeName, "cluster domain": c.ClusterDomain,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("credentials: no %s", name))
		}
	}
	if len(c.NodeIPs) == 0 || !c.ServiceIP.IsValid() {
		errs = append(errs, errors.New("credentials: no node or service address"))
	}
	return errors.Join(errs...)
}

// Credentials tells components which files are theirs.
type Credentials struct {
	cfg   Config
	host  pki.Host
	store *pki.Store
	log   *slog.Logger
}

// Prepare makes what is missing and keeps what is there.
func Prepare(cfg Config, log *slog.Logger) (*Credentials, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := Locate(cfg)
	c.log = log
	c.store = pki.New(pki.Config{Dir: cfg.TLSDir, Leaves: c.host.Leaves()}, log)
	if _, _, err := c.store.Ensure(); err != nil {
		return nil, err
	}
	if err := pki.EnsureEncryption(c.EncryptionFile()); err != nil {
		return nil, err
	}
	for _, name := range []string{pki.ControllerManager, pki.Scheduler, pki.DNS, pki.KubeletClient, pki.KubeProxy} {
		if err := kube.WriteKubeconfig(c.Kubeconfig(name), c.Access(name)); err != nil {
			return nil, err
		}
	}
	return c, c.writeAdmin()
}

// Locate tells where the files of cfg are, or will be after Prepare. It reads and writes nothing.
func Locate(cfg Config) *Credentials {
	host := pki.Host{
		TLSDir: cfg.TLSDir, AgentTLSDir: cfg.AgentTLSDir, NodeName: cfg.NodeName,
		ServiceIP: cfg.ServiceIP.AsSlice(), ClusterDomain: cfg.ClusterDomain, ExtraSANs: cfg.TLSSANs,
	}
	for _, ip := range cfg.NodeIPs {
		host.NodeIPs = append(host.NodeIPs, ip.AsSlice())
	}
	log := slog.New(slog.DiscardHandler)
	return &Credentials{cfg: cfg, host: host, log: log, store: pki.New(pki.Config{Dir: cfg.TLSDir}, log)}
}

func (c *Credentials) writeAdmin() error {
	return kube.WriteInlineKubeconfig(c.cfg.AdminFile, c.Access(pki.Admin))
}

// AdminUser is the name of the holder of the administrator's kubeconfig.
func (c *Credentials) AdminUser() (string, error) { return c.host.Leaf(pki.Admin).User() }

// Renewer keeps the certificates fresh, and the administrator's kubeconfig, which carries copies, with them.
func (c *Credentials) Renewer() *pki.Renewer {
	return pki.NewRenewer(c.store, func(names []string) error {
		if slices.Contains(names, pki.Admin) || slices.Contains(names, string(pki.ServerCA)) {
			return c.writeAdmin()
		}
		return nil
	}, c.log)
}

// Server is how clients on this host reach the apiserver.
func (c *Credentials) Server() string {
	host := "127.0.0.1"
	if bind := c.cfg.BindAddress; bind.IsValid() && !bind.IsUnspecified() {
		host = bind.String()
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(c.cfg.Port))
}

// Access is what the holder of the certificate called name reaches the apiserver with.
func (c *Credentials) Access(name string) kube.Access {
	leaf := c.host.Leaf(name)
	return kube.Access{Server: c.Server(), CAFile: c.store.CAFile(pki.ServerCA), CertFile: leaf.CertFile(), KeyFile: leaf.KeyFile()}
}

// Kubeconfig is the file of the component that holds the certificate called name.
func (c *Credentials) Kubeconfig(name string) string {
	return filepath.Join(c.cfg.CredDir, name+".kubeconfig")
}

// Leaf is the certificate called name.
func (c *Credentials) Leaf(name string) pki.Leaf { return c.host.Leaf(name) }

// CAFile is the certificate of an authority.
func (c *Credentials) CAFile(a pki.Authority) string { return c.store.CAFile(a) }

// CAKeyFile is the key of an authority.
func (c *Credentials) CAKeyFile(a pki.Authority) string { return c.store.CAKeyFile(a) }

// ServiceAccountKeyFile is the key that signs service-account tokens.
func (c *Credentials) ServiceAccountKeyFile() string { return c.store.ServiceAccountKeyFile() }

// EncryptionFile holds the key that encrypts Secrets in the datastore.
func (c *Credentials) EncryptionFile() string { return filepath.Join(c.cfg.CredDir, "encryption.yaml") }

// AuthenticationFile is what the apiserver writes its authentication settings to.
func (c *Credentials) AuthenticationFile() string {
	return filepath.Join(c.cfg.CredDir, "authentication.yaml")
}
