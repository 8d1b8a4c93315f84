package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// Skew is how far a certificate's validity is dated back, for hosts whose clock is behind.
const Skew = 5 * time.Minute

// signer is an authority ready to sign.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// renewAt is two thirds into the life of cert.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// staleness says why cert cannot serve for l any longer, or nothing.
func staleness(l Leaf, cert *x509.Certificate, key *ecdsa.PrivateKey, by signer, now time.Time) string {
	switch {
	case !now.Before(renewAt(cert)):
		return "two thirds of its life are over"
	case !key.PublicKey.Equal(cert.PublicKey):
		return "key does not fit"
	case l.Life > 0 && cert.NotAfter.Sub(cert.NotBefore) > l.Life+Skew:
		return "its life is too long"
	case cert.CheckSignatureFrom(by.cert) != nil:
		return "other authority"
	case cert.Subject.CommonName != l.CommonName || !slices.Equal(cert.Subject.Organization, organization(l)):
		return "other subject"
	case !sameNames(cert, l):
		return "other names or addresses"
	}
	return ""
}

func sameNames(cert *x509.Certificate, l Leaf) bool {
	return slices.Equal(sorted(cert.DNSNames), sorted(l.DNSNames)) &&
		slices.Equal(sorted(ipStrings(cert.IPAddresses)), sorted(ipStrings(l.IPs)))
}

func sorted(in []string) []string { return slices.Compact(slices.Sorted(slices.Values(in))) }

func ipStrings(ips []net.IP) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

func organization(l Leaf) []string {
	if l.Organization == "" {
		return nil
	}
	return []string{l.Organization}
}

func issueAuthority(a Authority, key *ecdsa.PrivateKey, now time.Time, life time.Duration) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "nodeless-" + string(a)},
		NotBefore:             now.Add(-backdate(life)),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
}

func issueLeaf(l Leaf, key *ecdsa.PrivateKey, by signer, now time.Time, life time.Duration) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	usage := x509.ExtKeyUsageClientAuth
	if len(l.DNSNames)+len(l.IPs) > 0 {
		usage = x509.ExtKeyUsageServerAuth
	}
	notAfter := now.Add(life)
	if notAfter.After(by.cert.NotAfter) {
		notAfter = by.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: l.CommonName, Organization: organization(l)},
		NotBefore:    now.Add(-backdate(life)),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
		DNSNames:     sorted(l.DNSNames),
		IPAddresses:  l.IPs,
	}
	return x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
}

// keyedName is name with the fingerprint of key.
func keyedName(name string, key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("encode public key of %s: %w", name, err)
	}
	sum := sha256.Sum256(der)
	return name + ":" + hex.EncodeToString(sum[:8]), nil
}

// User is the name that the certificate of l carries.
func (l Leaf) User() (string, error) {
	cert, err := readCert(l.CertFile())
	if err != nil {
		return "", err
	}
	return cert.Subject.CommonName, nil
}

// backdate is Skew, or less for certificates that live shortly.
func backdate(life time.Duration) time.Duration { return min(Skew, life/20) }

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func generateKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func decodeKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "EC PRIVATE KEY" {
		return nil, errors.New("no EC private key in it")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

func readCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read certificate %s: no certificate in it", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func writeCert(path string, der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return cert, atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
