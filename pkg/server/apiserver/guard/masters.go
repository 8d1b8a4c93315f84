package guard

import (
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Masters has nobody be a member of system:masters by a certificate but the server itself. No right of that group can be taken away, and
// certificates for it were once given out for a year: whoever shows one has its name, and the rights that are bound to that. What has no
// certificate, such as the token that the apiserver uses on itself, is not judged.
func Masters(next authenticator.Request, supervisor string, life time.Duration) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		res, ok, err := next.AuthenticateRequest(req)
		if !ok || err != nil || res == nil || res.User == nil || !slices.Contains(res.User.GetGroups(), user.SystemPrivilegedGroup) {
			return res, ok, err
		}
		if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 || isSupervisor(req.TLS.PeerCertificates[0], res.User.GetName(), supervisor, life) {
			return res, ok, nil
		}
		less := *res
		less.User = &user.DefaultInfo{
			Name: res.User.GetName(), UID: res.User.GetUID(), Extra: res.User.GetExtra(),
			Groups: slices.DeleteFunc(slices.Clone(res.User.GetGroups()), func(group string) bool { return group == user.SystemPrivilegedGroup }),
		}
		return &less, true, nil
	})
}

// isSupervisor tells that the certificate is one of those that the server has made for itself since they are short-lived.
func isSupervisor(cert *x509.Certificate, name, supervisor string, life time.Duration) bool {
	return name == supervisor && cert.Subject.CommonName == supervisor && cert.NotAfter.Sub(cert.NotBefore) <= life
}
