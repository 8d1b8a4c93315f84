// Package dns is the cluster's name server: CoreDNS in this process, with the few plugins it needs. pkg/server starts it
// when its rights are in place and the host carries the address it binds; Pods reach it as the Service kube-dns.
package dns

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"        // directives of the Corefile
	_ "github.com/coredns/coredns/plugin/cache"       //
	_ "github.com/coredns/coredns/plugin/errors"      //
	_ "github.com/coredns/coredns/plugin/forward"     //
	_ "github.com/coredns/coredns/plugin/kubernetes"  //
	_ "github.com/coredns/coredns/plugin/loadbalance" //
	_ "github.com/coredns/coredns/plugin/template"    //
	"k8s.io/klog/v2"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/run"
)

// watchInterval is how often the host's resolver configuration is looked at for changes.
const watchInterval = 30 * time.Second

// Config says what to serve and where.
type Config struct {
	Address    netip.Addr // the host carries it already
	Port       int        // 53, but for tests
	Domain     string
	Kubeconfig string
	// ResolvConf lists resolver configurations of the host; upstream servers come from the first that has any.
	ResolvConf []string
}

// HostResolvConf are the places where hosts name their resolvers. The second is what systemd-resolved, whose
// stub in the first is a loopback address, writes for cases like ours.
func HostResolvConf() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	if !c.Address.IsValid() {
		errs = append(errs, errors.New("dns: no address"))
	}
	if c.Port < 1 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("dns: port %d is not between 1 and 65535", c.Port))
	}
	if c.Domain == "" {
		errs = append(errs, errors.New("dns: no domain"))
	}
	if c.Kubeconfig == "" {
		errs = append(errs, errors.New("dns: no kubeconfig"))
	}
	return errors.Join(errs...)
}

func (c Config) listenAddress() string {
	return net.JoinHostPort(c.Address.String(), strconv.Itoa(c.Port))
}

// upstreams reads the host's resolver configuration anew. A file that cannot be read names no server.
func (c Config) upstreams() []netip.Addr {
	for _, path := range c.ResolvConf {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if found := Upstreams(string(data), c.Address); len(found) > 0 {
			return found
		}
	}
	return nil
}

// Server is the component.
type Server struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*Server)(nil)
	_ run.Readier   = (*Server)(nil)
)

// New gives a name server that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Server { return &Server{cfg: cfg, log: log} }

// Name is "dns".
func (s *Server) Name() string { return "dns" }

// Run serves until ctx ends, and follows changes of the host's resolvers.
func (s *Server) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	caddy.Quiet, dnsserver.Quiet = true, true
	register()
	upstreams := s.cfg.upstreams()
	s.breakLogLoop()
	instance, err := caddy.Start(s.input(upstreams))
	clearLogger()
	if err != nil {
		return &hint.Error{Op: "serve DNS on", On: s.cfg.listenAddress(), Err: err,
			Do: "stop the program that has the port (ss -lnp 'sport = :" + strconv.Itoa(s.cfg.Port) + "' names it)"}
	}
	s.log.Debug("dns serving", "address", s.cfg.listenAddress(), "upstreams", upstreams)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(append(instance.ShutdownCallbacks(), instance.Stop())...)
		case <-ticker.C:
		}
		now := s.cfg.upstreams()
		if slices.Equal(now, upstreams) {
			continue
		}
		s.breakLogLoop()
		restarted, err := instance.Restart(s.input(now))
		clearLogger()
		if err != nil {
			s.log.Warn("dns keeps its upstream servers", "error", err)
			continue
		}
		s.log.Info("dns upstream servers changed", "from", upstreams, "to", now)
		instance, upstreams = restarted, now
	}
}

// breakLogLoop points the standard logger at ours. kube-proxy, which starts before us, has pointed it at klog, and CoreDNS
// is about to point klog at it: from then on the first line of anybody would deadlock all logging.
func (s *Server) breakLogLoop() {
	stdlog.SetOutput(slog.NewLogLogger(s.log.Handler(), slog.LevelDebug).Writer())
}

// clearLogger takes klog back from CoreDNS, so that it writes to where pkg/server/logbridge wants it.
func clearLogger() { klog.ClearLogger() }

func (s *Server) input(upstreams []netip.Addr) caddy.Input {
	return caddy.CaddyfileInput{Contents: []byte(Corefile(s.cfg, upstreams)), Filepath: "Corefile", ServerTypeName: "dns"}
}

// Ready waits until the server resolves the name that every cluster has.
func (s *Server) Ready(ctx context.Context) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.cfg.listenAddress())
	}}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, time.Second)
		_, err := resolver.LookupHost(one, "kubernetes.default.svc."+s.cfg.Domain+".")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-ticker.C:
		}
	}
}
