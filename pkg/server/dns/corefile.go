package dns

import (
	"fmt"
	"net/netip"
	"strings"
)

// Corefile is CoreDNS's configuration for c with the given upstream resolvers. Without one, names outside the
// cluster are denied at once: a host without a way out should not make every such lookup wait for a time-out.
func Corefile(c Config, upstreams []netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d in-addr.arpa:%d ip6.arpa:%d {\n", c.Domain, c.Port, c.Port, c.Port)
	fmt.Fprintf(&b, "    bind %s\n    errors\n", c.Address)
	fmt.Fprintf(&b, "    kubernetes %s in-addr.arpa ip6.arpa {\n        kubeconfig %q\n        pods insecure\n        ttl 30\n", c.Domain, c.Kubeconfig)
	if len(upstreams) > 0 {
		b.WriteString("        fallthrough in-addr.arpa ip6.arpa\n")
	}
	b.WriteString("    }\n")
	forward(&b, upstreams)
	b.WriteString("    cache 30\n    loadbalance\n}\n")

	fmt.Fprintf(&b, ".:%d {\n    bind %s\n    errors\n", c.Port, c.Address)
	if len(upstreams) > 0 {
		forward(&b, upstreams)
		b.WriteString("    cache 30\n    loadbalance\n")
	} else {
		b.WriteString("    template ANY ANY {\n        rcode NXDOMAIN\n    }\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func forward(b *strings.Builder, upstreams []netip.Addr) {
	if len(upstreams) == 0 {
		return
	}
	fmt.Fprintf(b, "    %s\n    forward .", shareDirective)
	for _, u := range upstreams {
		b.WriteString(" " + netip.AddrPortFrom(u, 53).String())
	}
	fmt.Fprintf(b, " {\n        max_concurrent %d\n    }\n", maxForwarded)
}

// Upstreams are the name servers of a resolv.conf that can be asked from here: loopback ones are
// another program's stub, and own is this very server.
func Upstreams(resolvConf string, own netip.Addr) []netip.Addr {
	var found []netip.Addr
	for line := range strings.Lines(resolvConf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil || addr.IsLoopback() || addr.IsUnspecified() || addr == own {
			continue
		}
		found = append(found, addr)
	}
	return found
}
