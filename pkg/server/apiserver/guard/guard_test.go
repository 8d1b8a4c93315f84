package guard

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestStorageTells: the database's refusals are no faults of the server.
func TestStorageTells(t *testing.T) {
	s := told{resource: schema.GroupResource{Resource: "configmaps"}}
	if err := s.tell("/configmaps/a/x", rpctypes.ErrTooManyRequests); !apierrors.IsTooManyRequests(err) {
		t.Errorf("too many requests are %v", err)
	} else if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 2 {
		t.Errorf("come again in %d seconds (%t), want 2", seconds, ok)
	}
	if err := s.tell("/configmaps/a/x", rpctypes.ErrRequestTooLarge); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a too large object is %v", err)
	}
	other := errors.New("other")
	if err := s.tell("", other); !errors.Is(err, other) || s.tell("/configmaps/a/x", nil) != nil {
		t.Errorf("what is no refusal becomes %v", err)
	}
}

// TestAttackConnections: one address opens connections without end, before it has said who it is.
func TestAttackConnections(t *testing.T) {
	var lc net.ListenConfig
	inner, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 3
	mallory := netip.MustParseAddr("127.0.0.1")
	l := Listen(inner, most, func(ip netip.Addr) bool { return ip != mallory })
	t.Cleanup(func() { _ = l.Close() })
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var mine []net.Conn
	for range most {
		dial("127.0.0.1")
		mine = append(mine, <-accepted)
	}
	attack.Try(t, "T6", "open connections without end", func(t *testing.T) attack.Outcome {
		c := dial("127.0.0.1")
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return attack.Refused
		}
		return attack.Succeeded
	})
	dial("127.0.0.2") // of the host
	<-accepted
	for range 2 { // closing twice gives back one
		_ = mine[0].Close()
	}
	dial("127.0.0.1")
	<-accepted
	if n := l.(*listener).open[mallory]; n != most {
		t.Errorf("%d connections are counted, want %d", n, most)
	}
}

func TestSource(t *testing.T) {
	for from, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::", "::1": "::1"} {
		if got := source(&net.TCPAddr{IP: net.ParseIP(from)}); got != netip.MustParseAddr(want) {
			t.Errorf("%s is counted as %s, want %s", from, got, want)
		}
	}
	if !OfThisHost(netip.MustParseAddr("127.0.0.9")) || OfThisHost(netip.MustParseAddr("192.0.2.1")) {
		t.Error("loopback is this host's, a documentation address is not")
	}
}

func TestIsSystem(t *testing.T) {
	for _, tt := range []struct {
		name   string
		groups []string
		system bool
		holder string
	}{
		{name: "system:kube-scheduler", system: true, holder: `user "system:kube-scheduler"`},
		{name: "system:node:x", groups: []string{user.NodesGroup}, system: true, holder: `user "system:node:x"`},
		{name: "nodeless:supervisor", groups: []string{user.SystemPrivilegedGroup}, system: true, holder: `user "nodeless:supervisor"`},
		{name: "system:serviceaccount:kube-system:x", system: true, holder: `all ServiceAccounts of namespace "kube-system" together`},
		{name: "system:serviceaccount:a:x", holder: `all ServiceAccounts of namespace "a" together`},
		{name: "nodeless:user:alice:1", holder: `user "nodeless:user:alice:1"`},
		{name: user.Anonymous, holder: `user "system:anonymous"`},
	} {
		who := &user.DefaultInfo{Name: tt.name, Groups: tt.groups}
		if isSystem(who) != tt.system || holder(who) != tt.holder {
			t.Errorf("%s: system %t, counted for %s", tt.name, isSystem(who), holder(who))
		}
	}
}

func TestIsSupervisor(t *testing.T) {
	now := time.Now()
	cert := func(name string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now, NotAfter: now.Add(life)}
	}
	for _, tt := range []struct {
		cert *x509.Certificate
		name string
		want bool
	}{
		{cert("s", time.Hour), "s", true},
		{cert("s", 2*time.Hour), "s", false},
		{cert("admin", time.Minute), "admin", false},
		{cert("front-proxy", time.Minute), "s", false},
	} {
		if got := isSupervisor(tt.cert, tt.name, "s", time.Hour); got != tt.want {
			t.Errorf("%s as %s: %t", tt.cert.Subject.CommonName, tt.name, got)
		}
	}
}

// TestAuditHides: what may be secret in a request's address.
func TestAuditHides(t *testing.T) {
	for _, tt := range []struct{ subresource, uri, want string }{
		{"exec", "/api/v1/namespaces/a/pods/x/exec?command=sh&command=-c&command=export+K%3Ds&container=c", "/api/v1/namespaces/a/pods/x/exec?command=sh&command=hidden&command=hidden&container=c"},
		{"exec", "/api/v1/namespaces/a/pods/x/exec?command=sh;s", "/api/v1/namespaces/a/pods/x/exec?hidden"},
		{"exec", "/api/v1/namespaces/a/pods/x/exec", "/api/v1/namespaces/a/pods/x/exec"},
		{"proxy", "/api/v1/namespaces/a/pods/x/proxy/s?s=s", "/api/v1/namespaces/a/pods/x/proxy/hidden?hidden"},
		{"proxy", "/api/v1/namespaces/a/pods/x/proxy/", "/api/v1/namespaces/a/pods/x/proxy/"},
		{"proxy", "/api/v1/namespaces/a/pods/x/pro%78y/s", "hidden"},
		{"log", "/api/v1/namespaces/a/pods/x/log?follow=true", "/api/v1/namespaces/a/pods/x/log?follow=true"},
		{"", "/api/v1/namespaces/a/pods?limit=5", "/api/v1/namespaces/a/pods?limit=5"},
	} {
		event := &auditinternal.Event{RequestURI: tt.uri, ObjectRef: &auditinternal.ObjectReference{Subresource: tt.subresource}}
		var kept keeper
		if !Audit(&kept).ProcessEvents(event) || kept.last != tt.want || event.RequestURI != tt.uri {
			t.Errorf("%s %s is logged as %s, want %s", tt.subresource, tt.uri, kept.last, tt.want)
		}
	}
}

// keeper keeps the last event's address.
type keeper struct{ last string }

func (k *keeper) ProcessEvents(events ...*auditinternal.Event) bool {
	k.last = events[0].RequestURI
	return true
}
func (*keeper) Run(<-chan struct{}) error { return nil }
func (*keeper) Shutdown()                 {}
func (*keeper) String() string            { return "keeper" }
