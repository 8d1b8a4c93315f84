package netdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostPort is a port of the host that leads to a Pod's.
type HostPort struct {
	Protocol string     `json:"protocol"`        // tcp, udp or sctp
	HostIP   netip.Addr `json:"hostIP,omitzero"` // not valid: all addresses of the host
	Port     int        `json:"port"`            // of the host
	PodPort  int        `json:"podPort"`
}

// key is what the kernel looks a packet up by.
func (p HostPort) key() string {
	if p.HostIP.IsValid() {
		return fmt.Sprintf("%s . %s . %d", p.HostIP, p.Protocol, p.Port)
	}
	return fmt.Sprintf("%s . %d", p.Protocol, p.Port)
}

// Clashes tells whether two ports cannot both be had.
func (p HostPort) Clashes(o HostPort) bool {
	return p.Protocol == o.Protocol && p.Port == o.Port && (p.HostIP == o.HostIP || !p.HostIP.IsValid() || !o.HostIP.IsValid())
}

// String is as in "8080/tcp" or "192.0.2.1:8080/tcp".
func (p HostPort) String() string {
	if p.HostIP.IsValid() {
		return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.HostIP, uint16(p.Port)), p.Protocol)
	}
	return fmt.Sprintf("%d/%s", p.Port, p.Protocol)
}

// portMaps are always there, so that a Pod's ports can be taken away whatever the server has been told since.
const portMaps = `	map host_ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map host_ports_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	set itself { type ipv4_addr . ipv4_addr; }
`

// portElements are the commands for a link's ports.
func (l Link) portElements(verb string) string {
	var b strings.Builder
	for _, p := range l.Ports {
		in := "host_ports"
		if p.HostIP.IsValid() {
			in = "host_ports_at"
		}
		fmt.Fprintf(&b, "%s element inet %s %s { %s : %s . %d }\n", verb, Table, in, p.key(), l.Addr, p.PodPort)
	}
	if len(l.Ports) > 0 {
		fmt.Fprintf(&b, "%s element inet %s itself { %s . %[3]s }\n", verb, Table, l.Addr)
	}
	return b.String()
}

// writePortChains writes what leads ports of the host to Pods. It comes before kube-proxy's: whoever translates first has the connection.
func writePortChains(b *strings.Builder, c Config) {
	writeChain(b, "ports", "meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @host_ports_at",
		"meta nfproto ipv4 dnat ip to meta l4proto . th dport map @host_ports")
	writeChain(b, "ports_in", "type nat hook prerouting priority dstnat - 5; policy accept;", "fib daddr type local jump ports")
	writeChain(b, "ports_out", "type nat hook output priority -105; policy accept;", "fib daddr type local jump ports")
	// A Pod answers neither the host's loopback nor itself.
	writeChain(b, "ports_back", "type nat hook postrouting priority srcnat - 5; policy accept;",
		fmt.Sprintf(`oifname "nl*" ct status dnat ip saddr 127.0.0.0/8 snat ip to %s`, c.Gateway),
		fmt.Sprintf("ip saddr . ip daddr @itself snat ip to %s", c.Gateway))
}

// same tells that two links may send and receive the same.
func (l Link) same(o Link) bool {
	return l.Name == o.Name && l.MAC == o.MAC && l.Addr == o.Addr && l.Sent == o.Sent && l.Received == o.Received
}

// wanted are the elements of both maps of ports.
func wanted(links []Link) (all []string) {
	for _, l := range links {
		for _, p := range l.Ports {
			all = append(all, fmt.Sprintf("%s : %s . %d", p.key(), l.Addr, p.PodPort))
		}
	}
	slices.Sort(all)
	return all
}

// mapped are the elements of both maps of ports that are there.
func mapped(c Config) (all []string, err error) {
	for _, name := range []string{"host_ports", "host_ports_at"} {
		out, err := exec.Command(c.nftProgram(), "--json", "list", "map", "inet", Table, name).Output()
		if err != nil {
			return nil, fmt.Errorf("list map %s: %w", name, err)
		}
		var reply struct {
			Nftables []struct {
				Map struct {
					Elem [][2]struct{ Concat []any }
				}
			}
		}
		if err := json.Unmarshal(out, &reply); err != nil {
			return nil, fmt.Errorf("list map %s: %w", name, err)
		}
		for _, object := range reply.Nftables {
			for _, e := range object.Map.Elem {
				all = append(all, joined(e[0].Concat)+" : "+joined(e[1].Concat))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

func joined(parts []any) string {
	var out []string
	for _, p := range parts {
		out = append(out, fmt.Sprint(p))
	}
	return strings.Join(out, " . ")
}

// ForgetPorts has the kernel forget what goes to ports of the host without being translated: packets that came while nobody had the
// port belong to a connection that would go on past the Pod.
func ForgetPorts(ports []HostPort) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, toPorts(ports))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !noConntrack(err) {
		return fmt.Errorf("forget connections to ports of the host: %w", err)
	}
	return nil
}

// toPorts matches a flow to one of the ports whose answers come from there.
type toPorts []HostPort

// MatchConntrackFlow is asked for each flow.
func (t toPorts) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	protocol := map[uint8]string{unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}[flow.Forward.Protocol]
	asked := address(flow.Forward.DstIP)
	return asked == address(flow.Reverse.SrcIP) && slices.ContainsFunc(t, func(p HostPort) bool {
		return p.Protocol == protocol && p.Port == int(flow.Forward.DstPort) && (!p.HostIP.IsValid() || p.HostIP == asked)
	})
}
