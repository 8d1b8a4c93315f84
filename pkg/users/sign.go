package users

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
)

// signTimeout is how long the controller-manager has to sign. It takes less than a second.
const signTimeout = 30 * time.Second

// signed is a certificate with its key.
type signed struct {
	cert, key []byte // PEM
	expires   time.Time
}

// sign makes a key, which never leaves this process but in the result, and has the cluster sign for it. The request is removed again.
func (k *Keeper) sign(ctx context.Context, username string, life time.Duration) (s signed, err error) {
	key, request, err := newRequest(username)
	if err != nil {
		return signed{}, fmt.Errorf("make key of %s: %w", username, err)
	}
	requests := k.client.CertificatesV1().CertificateSigningRequests()
	seconds := int32(life / time.Second)
	csr, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: username},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientSignerName, ExpirationSeconds: &seconds,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return signed{}, fault("ask for a certificate of", username, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if derr := kube.IgnoreNotFound(requests.Delete(ctx, csr.Name, metav1.DeleteOptions{})); derr != nil {
			err = errors.Join(err, fault("remove request for a certificate", csr.Name, derr))
		}
	}()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "NodelessUser", Message: "by nodeless user create",
	})
	if _, err := requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return signed{}, fault("approve the certificate of", username, err)
	}
	cert, err := k.awaitCertificate(ctx, csr.Name)
	if err != nil {
		return signed{}, err
	}
	expires, err := check(cert, username, key)
	if err != nil {
		return signed{}, fmt.Errorf("use the certificate of %s: %w", username, err)
	}
	text, err := encodeKey(key)
	return signed{cert: cert, key: text, expires: expires}, err
}

func (k *Keeper) awaitCertificate(ctx context.Context, name string) (cert []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	err = kube.Wait(ctx, "the certificate", func(ctx context.Context) (bool, error) {
		csr, err := k.client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range csr.Status.Conditions {
			if c.Type == certificatesv1.CertificateFailed || c.Type == certificatesv1.CertificateDenied {
				return false, kube.Permanent(fmt.Errorf("%s: %s", strings.ToLower(string(c.Type)), c.Message))
			}
		}
		cert = csr.Status.Certificate
		return len(cert) > 0, nil
	})
	if err != nil {
		return nil, &hint.Error{Op: "sign for", On: name, Err: err, Do: "see whether the controller-manager runs: it signs, and the server's log says why it does not"}
	}
	return cert, nil
}

// newRequest makes a key and the request for its certificate, in PEM.
func newRequest(username string) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: username}}, key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// check makes sure that the certificate is what was asked for, and tells until when it is valid.
func check(cert []byte, username string, key *ecdsa.PrivateKey) (expires time.Time, err error) {
	block, _ := pem.Decode(cert)
	if block == nil || block.Type != "CERTIFICATE" {
		return time.Time{}, errors.New("no certificate in it")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	if parsed.Subject.CommonName != username || len(parsed.Subject.Organization) > 0 {
		return time.Time{}, fmt.Errorf("it is for %s", parsed.Subject)
	}
	if !key.PublicKey.Equal(parsed.PublicKey) {
		return time.Time{}, errors.New("it is for another key")
	}
	return parsed.NotAfter, nil
}
