package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

const (
	// shareDirective is how the Corefile knows the plugin.
	shareDirective = "share"
	// maxLookups is how many names outside the cluster one Pod has looked up at a time, and maxForwarded all Pods together. A name server of
	// somebody's own that never answers holds each of them up for seconds.
	maxLookups   = 100
	maxForwarded = 5000
)

// share keeps one Pod from having all of the lookups outside the cluster that there are at a time. The next one of it is refused.
type share struct {
	next plugin.Handler

	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu
}

var _ plugin.Handler = (*share)(nil)

// register makes the plugin known to CoreDNS, before the one that asks others. So what is in the cluster or in the cache does not pass
// it. It may be called again.
func register() {
	if slices.Contains(dnsserver.Directives, shareDirective) {
		return
	}
	caddy.RegisterPlugin(shareDirective, caddy.Plugin{ServerType: "dns", Action: func(c *caddy.Controller) error {
		dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler { return &share{next: next, open: make(map[netip.Addr]int)} })
		return nil
	}})
	at := slices.Index(dnsserver.Directives, "forward")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), max(at, 0), shareDirective)
}

// Name is how CoreDNS' messages know the plugin.
func (*share) Name() string { return shareDirective }

// ServeDNS answers a query, or has the next one do it.
func (s *share) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	from := sender(w.RemoteAddr())
	if !s.take(from) {
		return dns.RcodeRefused, nil // an error would be a line in the log for each
	}
	defer s.giveBack(from)
	return plugin.NextOrFailure(s.Name(), s.next, ctx, w, r)
}

func (s *share) take(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from] >= maxLookups {
		return false
	}
	s.open[from]++
	return true
}

func (s *share) giveBack(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from]--; s.open[from] <= 0 {
		delete(s.open, from)
	}
}

// sender is the address without the port. Those that have none share one place.
func sender(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
