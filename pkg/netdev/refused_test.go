package netdev

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestRefusedFlows: connections are judged as their first packets are.
func TestRefusedFlows(t *testing.T) {
	j := judge{
		Config: Config{
			Gateway: netip.MustParseAddr("10.42.0.1"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"),
			Guard: Guard{
				Services: netip.MustParsePrefix("10.43.0.0/16"), APIPort: 6443, Denied: MetadataServices(),
				AllowFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}, HostPorts: []string{"5432/tcp"},
			},
		},
		local: map[netip.Addr]bool{netip.MustParseAddr("10.42.0.1"): true, netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("127.0.0.1"): true},
	}
	const pod, other, gateway, host, lan, allowed, cloud = "10.42.0.5", "10.42.0.6", "10.42.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.200", "100.100.100.200"
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for _, tt := range []struct {
		name            string
		from, asked, to string
		protocol        uint8
		port            uint16
		want            bool
	}{
		{"Pod to Pod", pod, other, other, tcp, 80, false},
		{"Pod to Service", pod, "10.43.0.7", other, tcp, 80, false},
		{"Pod to the internet", pod, "198.51.100.1", "198.51.100.1", tcp, 443, false},
		{"Pod to DNS", pod, "10.43.0.10", gateway, udp, 53, false},
		{"Pod to another name server of the host", pod, host, host, udp, 53, true},
		{"Pod to the apiserver", pod, "10.43.0.1", host, tcp, 6443, false},
		{"Pod to the apiserver's port by UDP", pod, host, host, udp, 6443, true},
		{"Pod to an opened port", pod, host, host, tcp, 5432, false},
		{"Pod pings the host", pod, gateway, gateway, icmp, 0, false},
		{"Pod to ssh", pod, host, host, tcp, 22, true},
		{"Pod to the kubelet by a Service", pod, "10.43.0.7", host, tcp, 10250, true},
		{"Pod to metadata", pod, cloud, cloud, tcp, 80, true},
		{"Pod to metadata by a Service", pod, "10.43.0.7", cloud, tcp, 80, true},
		{"host to metadata", host, cloud, cloud, tcp, 80, false},
		{"neighbour to metadata by a node port", lan, host, cloud, tcp, 80, true},
		{"neighbour to metadata past the host", lan, cloud, cloud, tcp, 80, false},
		{"host to Pod", gateway, pod, pod, tcp, 80, false},
		{"host to Service", host, "10.43.0.7", pod, tcp, 80, false},
		{"host to itself", "127.0.0.1", "127.0.0.1", "127.0.0.1", tcp, 22, false},
		{"neighbour to Pod", lan, pod, pod, tcp, 80, true},
		{"neighbour to ClusterIP", lan, "10.43.0.7", pod, tcp, 80, true},
		{"neighbour to node port", lan, host, pod, tcp, 80, false},
		{"allowed neighbour to Pod", allowed, pod, pod, tcp, 80, false},
		{"neighbour to DNS", lan, gateway, gateway, udp, 53, true},
		{"neighbour to DNS by its ClusterIP", lan, "10.43.0.10", gateway, udp, 53, true},
		{"allowed neighbour to DNS by its ClusterIP", allowed, "10.43.0.10", gateway, udp, 53, false},
		{"neighbour to a port that the operator passes on to the host", lan, host, gateway, tcp, 8080, false},
		{"neighbour to ssh", lan, host, host, tcp, 22, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flow := &netlink.ConntrackFlow{
				Forward: netlink.IPTuple{SrcIP: net.ParseIP(tt.from), DstIP: net.ParseIP(tt.asked), Protocol: tt.protocol},
				Reverse: netlink.IPTuple{SrcIP: net.ParseIP(tt.to), SrcPort: tt.port, Protocol: tt.protocol},
			}
			if got := j.MatchConntrackFlow(flow); got != tt.want {
				t.Errorf("refused = %v, want %v", got, tt.want)
			}
		})
	}
}
