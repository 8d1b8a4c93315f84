package pull

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/nodeless/nodeless/pkg/netdev"
)

// These answer an image whose name or registry sends the host where it must not go. That is an address where the host is somebody, or
// where its Pods may not go: the metadata service of its cloud, its own programs, the operator's networks. It is the host who asks, and
// it may pass on to the registry what is said there. An operator who means it names the host, which then is asked; a metadata service
// never is.
var (
	errMetadata = errors.New("an image's registry is not at the address of a cloud's metadata service")
	errOwn      = errors.New("it is an address of this host")
	errCluster  = errors.New("it is an address of a Pod or a Service")
	errDenied   = errors.New("no Pod reaches that address (--pod-deny-cidr)")
	errProxy    = errors.New("it is the host's proxy")
)

// reach says where pulls go.
type reach struct {
	denied  []netip.Prefix // what no Pod reaches
	cluster []netip.Prefix // of Pods and Services
	proxy   func(*url.URL) (*url.URL, error)
	own     func(netip.Addr) (bool, error)
}

// newReach gives one with the host's own proxy, if its environment names one.
func newReach(denied, cluster []netip.Prefix) *reach {
	return &reach{denied: denied, cluster: cluster, proxy: httpproxy.FromEnvironment().ProxyFunc(), own: netdev.IsOwn}
}

// named tells whether the operator has named a host, which comes with its port.
type named func(hostPort string) bool

func nobody(string) bool { return false }

// check looks at the address itself, whatever name it had. It is named when the operator has named the host.
func (r *reach) check(at netip.Addr, named bool) error {
	at = at.Unmap().WithZone("")
	in := func(p netip.Prefix) bool { return p.Contains(at) }
	if at.IsLinkLocalUnicast() || slices.ContainsFunc(netdev.MetadataServices(), in) {
		return errMetadata
	}
	if named {
		return nil
	}
	own, err := r.own(at)
	switch {
	case err != nil:
		return err
	case own:
		return refused(errOwn)
	case slices.ContainsFunc(r.cluster, in):
		return refused(errCluster)
	case slices.ContainsFunc(r.denied, in):
		return refused(errDenied)
	}
	return nil
}

// refused says to the Pod's owner what the operator could do.
func refused(why error) error {
	return fmt.Errorf("%w, where a registry is only if the operator names its host and port under configs in registries.yaml", why)
}

// dialer connects. The address is looked at when the name is resolved, right before the connection is made. That a host did not answer in
// time is final: containerd would try five times what times out.
func (r *reach) dialer(limit time.Duration, is named) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		known := is(addr) || r.isProxy(addr)
		d := net.Dialer{Timeout: limit, KeepAlive: 30 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return r.check(to.Addr(), known)
		}}
		conn, err := d.DialContext(ctx, network, addr)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
			return nil, errors.New(err.Error()) // a kind that containerd does not know
		}
		return conn, err
	}
}

// through is the proxy for a request. A proxy resolves names itself, so only an address that is written out can be looked at here; and the
// proxy is no registry.
func (r *reach) through(is named) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		to := withPort(req.URL)
		proxy, err := r.proxy(req.URL)
		if err != nil {
			return nil, err
		}
		if proxy == nil {
			if r.isProxy(to) && !is(to) {
				return nil, fmt.Errorf("connect to %s: %w", to, refused(errProxy))
			}
			return nil, nil
		}
		if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
			if err := r.check(addr, is(to)); err != nil {
				return nil, fmt.Errorf("connect to %s: %w", to, err)
			}
		}
		return proxy, nil
	}
}

// isProxy tells whether the host's proxy is there.
func (r *reach) isProxy(hostPort string) bool {
	for _, scheme := range []string{"http", "https"} {
		proxy, err := r.proxy(&url.URL{Scheme: scheme, Host: "registry.invalid"})
		if err == nil && proxy != nil && strings.EqualFold(withPort(proxy), hostPort) {
			return true
		}
	}
	return false
}

// withPort is a URL's host with its port, as it is dialled.
func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
