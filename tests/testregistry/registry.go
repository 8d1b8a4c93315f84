package testregistry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Registry is a registry that can be served.
type Registry struct {
	CA []byte // who vouches for it, PEM

	blobs    *blobs
	store    http.Handler // without authentication
	tls      *tls.Config
	mu       sync.Mutex
	open     map[string]bool             // repositories that everybody may read; guarded by mu
	users    map[string]string           // passwords; guarded by mu. Without users nobody is asked.
	requests []string                    // guarded by mu
	odd      map[string]http.HandlerFunc // answers of its own, by path; guarded by mu
	servers  []*http.Server
}

// New makes a registry whose certificate is good for the hosts, names or addresses.
func New(hosts ...string) (*Registry, error) {
	b := &blobs{data: map[string][]byte{}}
	r := &Registry{
		blobs: b, store: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithBlobHandler(b)),
		open: map[string]bool{}, users: map[string]string{}, odd: map[string]http.HandlerFunc{},
	}
	return r, r.certify(hosts)
}

// certify makes an authority and a certificate by it.
func (r *Registry) certify(hosts []string) error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test registry authority"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test registry"}, NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), authorityKey)
	if err != nil {
		return err
	}
	r.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authorityDER})
	r.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return nil
}

// AddUser makes the registry ask everybody for a name and password, of which this is one.
func (r *Registry) AddUser(name, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[name] = password
}

// Open lets everybody read a repository.
func (r *Registry) Open(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[repository] = true
}

// Serve answers on a listener, by TLS or in plain HTTP, until Close.
func (r *Registry) Serve(l net.Listener, plain bool) {
	srv := &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if !plain {
		l = tls.NewListener(l, r.tls)
	}
	r.mu.Lock()
	r.servers = append(r.servers, srv)
	r.mu.Unlock()
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Print("test registry: ", err)
		}
	}()
}

// Close ends all serving.
func (r *Registry) Close() error {
	var errs []error
	for _, srv := range r.servers {
		errs = append(errs, srv.Close())
	}
	return errors.Join(errs...)
}

// ServeHTTP notes who asks for what, "name GET /v2/...", with "-" for nobody, and lets the allowed ones through.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, password, _ := req.BasicAuth()
	r.mu.Lock()
	want, known := r.users[name]
	allowed := len(r.users) == 0 || known && want == password || r.isOpen(req.URL.Path)
	if name == "" {
		name = "-"
	}
	r.requests = append(r.requests, name+" "+req.Method+" "+req.URL.Path)
	odd := r.odd[req.URL.Path]
	r.mu.Unlock()
	if !allowed {
		w.Header().Set("WWW-Authenticate", `Basic realm="test registry"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	if odd != nil {
		odd(w, req)
		return
	}
	r.store.ServeHTTP(w, req)
}

// Handle has requests for the path answered by f: a registry may be as odd as its images.
func (r *Registry) Handle(path string, f http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.odd[path] = f
}

func (r *Registry) isOpen(path string) bool {
	for repository := range r.open {
		if strings.HasPrefix(path, "/v2/"+repository+"/") {
			return true
		}
	}
	return false
}

// Requests are all requests so far.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}
