package dns

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackLookups: a Pod asks for many names of a server that never answers. Others have names to look up as well.
func TestAttackLookups(t *testing.T) {
	upstream := serveUpstream(t)
	register()
	register() // a server may be started twice in one process
	caddy.Quiet, dnsserver.Quiet = true, true
	port := freePort(t)
	text := ".:" + port + " {\n    bind 127.0.0.1\n    share\n    forward . " + upstream + " {\n        max_concurrent 110\n    }\n}\n"
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(text), Filepath: "Corefile", ServerTypeName: "dns"})
	clearLogger()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { instance.Stop() }) //nolint:errcheck // the process ends
	server := net.JoinHostPort("127.0.0.1", port)
	ask := func(ctx context.Context, from, name string) (*dns.Msg, error) {
		client := &dns.Client{Timeout: 5 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
		answer, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), server)
		return answer, err
	}
	attack.Try(t, "T6", "hold up the name server with names that nobody answers for", func(t *testing.T) attack.Outcome {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		refused := make(chan bool, 200)
		for range 200 {
			go func() {
				answer, err := ask(ctx, "127.0.0.2", "slow.example.com.")
				refused <- err == nil && answer.Rcode == dns.RcodeRefused
			}()
		}
		for n := range 100 {
			if !<-refused {
				t.Errorf("%d of 200 lookups at once were refused, want 100", n)
				break
			}
		}
		answer, err := ask(ctx, "127.0.0.3", "www.example.com.")
		if err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) != 1 {
			t.Errorf("another Pod's lookup: %v, %v", answer, err)
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// serveUpstream answers for all names but slow ones.
func serveUpstream(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		if strings.HasPrefix(r.Question[0].Name, "slow.") {
			return
		}
		answer := new(dns.Msg).SetReply(r)
		answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 1)}}
		_ = w.WriteMsg(answer)
	})}
	go s.ActivateAndServe()            //nolint:errcheck // it ends with the test
	t.Cleanup(func() { s.Shutdown() }) //nolint:errcheck // the process ends
	return conn.LocalAddr().String()
}

func freePort(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, port, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
