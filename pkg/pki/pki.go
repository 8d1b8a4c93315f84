// Package pki makes and keeps the certificates, keys and secrets of a cluster. pkg/server/credentials calls it
// at start; its Renewer then rewrites certificates while the server runs, long before they expire.
//
// There are three authorities, as in k3s. The one for servers and the one for clients are apart so that a
// certificate that a host serves with can never be shown as an identity, whatever its usages say. The front-proxy
// authority must be apart: whoever holds a certificate of it may name any user in a header.
//
// Keys are ECDSA P-256 and stay when a certificate is renewed, so a renewal replaces one file and no reader
// ever sees a certificate and a key that do not fit.
package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// DefaultAuthorityLife is how long an authority's certificate is valid.
	DefaultAuthorityLife = 10 * 365 * 24 * time.Hour
	// DefaultLeafLife is how long every other certificate is valid.
	DefaultLeafLife = 365 * 24 * time.Hour
)

// Authority names one of the cluster's certificate authorities; its files are <name>.crt and <name>.key.
type Authority string

const (
	// ServerCA signs what servers show: the apiserver and the kubelets.
	ServerCA Authority = "server-ca"
	// ClientCA signs identities that the apiserver and the kubelets accept.
	ClientCA Authority = "client-ca"
	// FrontProxyCA signs the apiserver's identity towards aggregated APIs.
	FrontProxyCA Authority = "front-proxy-ca"
)

// ServiceAccountKey is the base name of the key that signs service-account tokens.
const ServiceAccountKey = "service-account"

func authorities() []Authority { return []Authority{ServerCA, ClientCA, FrontProxyCA} }

// Leaf describes a certificate to keep. With addresses it is a serving certificate, without one an identity.
type Leaf struct {
	Name         string // base name of its files
	Dir          string // folder of its files
	Signer       Authority
	CommonName   string
	Keyed        bool // the common name ends in the key's fingerprint, after a colon: with another key it is another name
	Organization string
	Life         time.Duration // that of Config when zero; no longer than that
	DNSNames     []string
	IPs          []net.IP
}

// CertFile is the path of the certificate.
func (l Leaf) CertFile() string { return filepath.Join(l.Dir, l.Name+".crt") }

// KeyFile is the path of the key.
func (l Leaf) KeyFile() string { return filepath.Join(l.Dir, l.Name+".key") }

// Config says what to keep and where.
type Config struct {
	Dir           string // the authorities and the service-account key
	Leaves        []Leaf
	AuthorityLife time.Duration    // DefaultAuthorityLife when zero
	LeafLife      time.Duration    // DefaultLeafLife when zero
	Now           func() time.Time // time.Now when nil
}

// Store keeps the files of a Config.
type Store struct {
	cfg Config
	log *slog.Logger
}

// New gives a store; nothing is read or written before Ensure.
func New(cfg Config, log *slog.Logger) *Store {
	if cfg.AuthorityLife == 0 {
		cfg.AuthorityLife = DefaultAuthorityLife
	}
	if cfg.LeafLife == 0 {
		cfg.LeafLife = DefaultLeafLife
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Store{cfg: cfg, log: log}
}

// CAFile is the certificate of an authority.
func (s *Store) CAFile(a Authority) string { return filepath.Join(s.cfg.Dir, string(a)+".crt") }

// CAKeyFile is the key of an authority.
func (s *Store) CAKeyFile(a Authority) string { return filepath.Join(s.cfg.Dir, string(a)+".key") }

// ServiceAccountKeyFile is the key that signs service-account tokens.
func (s *Store) ServiceAccountKeyFile() string {
	return filepath.Join(s.cfg.Dir, ServiceAccountKey+".key")
}

// Ensure makes what is missing and re-issues what is due, was issued for other names, or does not fit its key
// or authority. What is still good stays untouched. It gives the names it wrote and the time of the next renewal.
func (s *Store) Ensure() (changed []string, next time.Time, err error) {
	now := s.cfg.Now()
	signers := make(map[Authority]signer)
	for _, a := range authorities() {
		sg, wrote, err := s.ensureAuthority(a, now)
		if err != nil {
			return changed, next, err
		}
		signers[a] = sg
		if wrote {
			changed = append(changed, string(a))
		}
		next = earliest(next, renewAt(sg.cert))
	}
	if _, err := ensureKey(s.ServiceAccountKeyFile()); err != nil {
		return changed, next, err
	}
	for _, l := range s.cfg.Leaves {
		cert, wrote, err := s.ensureLeaf(l, signers[l.Signer], now)
		if err != nil {
			return changed, next, err
		}
		if wrote {
			changed = append(changed, l.Name)
		}
		next = earliest(next, renewAt(cert))
	}
	return changed, next, nil
}

// ensureAuthority keeps the key for ever and renews the certificate for it: leaves that were signed before stay
// valid, and so do copies of the old certificate until they expire.
func (s *Store) ensureAuthority(a Authority, now time.Time) (signer, bool, error) {
	certFile, keyFile := s.CAFile(a), s.CAKeyFile(a)
	if exists(certFile) && !exists(keyFile) {
		return signer{}, false, lostKey(keyFile, fs.ErrNotExist)
	}
	key, err := ensureKey(keyFile)
	if err != nil {
		return signer{}, false, err
	}
	cert, err := readCert(certFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("authority certificate replaced", "file", certFile, "reason", err)
	}
	if err == nil && key.PublicKey.Equal(cert.PublicKey) && now.Before(renewAt(cert)) {
		return signer{cert: cert, key: key}, false, nil
	}
	der, err := issueAuthority(a, key, now, s.cfg.AuthorityLife)
	if err != nil {
		return signer{}, false, fmt.Errorf("issue %s: %w", a, err)
	}
	cert, err = writeCert(certFile, der)
	return signer{cert: cert, key: key}, true, err
}

func (s *Store) ensureLeaf(l Leaf, by signer, now time.Time) (*x509.Certificate, bool, error) {
	key, err := ensureKey(l.KeyFile())
	if err != nil { // nothing hangs on a leaf's key: make a new one
		s.log.Warn("unusable key replaced", "file", l.KeyFile(), "reason", err)
		if key, err = makeKey(l.KeyFile()); err != nil {
			return nil, false, err
		}
	}
	if l.Keyed {
		if l.CommonName, err = keyedName(l.CommonName, key); err != nil {
			return nil, false, err
		}
	}
	cert, err := readCert(l.CertFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		s.log.Warn("certificate replaced", "file", l.CertFile(), "reason", err)
	default:
		why := staleness(l, cert, key, by, now)
		if why == "" {
			return cert, false, nil
		}
		s.log.Info("certificate re-issued", "file", l.CertFile(), "reason", why)
	}
	life := s.cfg.LeafLife
	if l.Life > 0 {
		life = min(life, l.Life)
	}
	der, err := issueLeaf(l, key, by, now, life)
	if err != nil {
		return nil, false, fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	cert, err = writeCert(l.CertFile(), der)
	return cert, true, err
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func lostKey(path string, err error) error {
	return &hint.Error{Op: "read key", On: path, Err: err,
		Do: "restore the file from a backup of the data dir; without it the cluster's identity is lost and the data dir has to be made anew"}
}

// ensureKey reads the key at path, closing it to others if need be, or makes one.
func ensureKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, lostKey(path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("close key to other users: %w", err)
	}
	key, err := decodeKey(data)
	if err != nil {
		return nil, lostKey(path, err)
	}
	return key, nil
}

func makeKey(path string) (*ecdsa.PrivateKey, error) {
	key, data, err := generateKey()
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", path, err)
	}
	return key, atomicfile.Write(path, data, 0o600)
}
