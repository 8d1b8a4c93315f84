package netdev

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestText shows what is loaded. That it holds is shown by packets, in tests/netns.
func TestText(t *testing.T) {
	all := Guard{
		Services: netip.MustParsePrefix("10.43.0.0/16"), APIPort: 6443, Denied: MetadataServices(),
		AllowFrom: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, HostPorts: []string{"5432/tcp", "514/udp"}, PodPorts: true, Limits: DefaultLimits(),
	}
	links := []Link{{Name: "nl0123abcd", MAC: "02:00:00:00:00:01", Addr: netip.MustParseAddr("10.42.0.5"), Sent: 125_000, Received: 250_000, Ports: []HostPort{
		{Protocol: "tcp", Port: 8080, PodPort: 80}, {Protocol: "udp", HostIP: netip.MustParseAddr("192.0.2.1"), Port: 8080, PodPort: 81}}}}
	for _, tt := range []struct {
		name  string
		guard Guard
		max   int
		links []Link
	}{{name: "closed"}, {name: "all", guard: all, max: 262144, links: links}} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Gateway: netip.MustParseAddr("10.42.0.1"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), Guard: tt.guard}
			if err := tt.guard.Validate(); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tt.name+".nft")
			got := text(c, tt.max, tt.links)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

func TestLimitsLeaveRoomInTheHostsTable(t *testing.T) {
	for _, tt := range []struct {
		name string
		max  int
		want Limits
	}{
		{name: "a table as wide as we make it", max: 1 << 20, want: DefaultLimits()},
		{name: "as wide as kernels make it", max: 262144, want: Limits{Flows: 20_000, NewFlows: 546, Packets: 200_000, Bandwidth: 1_250_000_000}},
		{name: "narrow", max: 65536, want: Limits{Flows: 8192, NewFlows: 136, Packets: 200_000, Bandwidth: 1_250_000_000}},
		{name: "unknown", max: 0, want: DefaultLimits()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := DefaultLimits().within(tt.max)
			if got != tt.want {
				t.Errorf("limits = %+v, want %+v", got, tt.want)
			}
			if tt.max > 0 && got.Flows+timeWait*got.NewFlows > tt.max/2 {
				t.Errorf("%+v fill more than half of %d", got, tt.max)
			}
		})
	}
	if got := (Limits{}).within(100); got != (Limits{}) {
		t.Errorf("no limits became %+v", got)
	}
}

func TestListHasNoRangeTwice(t *testing.T) {
	var ranges []netip.Prefix
	for _, text := range []string{"169.254.169.254/32", "169.254.0.0/16", "10.0.0.7/8", "10.0.0.0/8", "192.0.2.1/32"} {
		ranges = append(ranges, netip.MustParsePrefix(text))
	}
	if got, want := list(ranges), "{ 169.254.0.0/16, 10.0.0.0/8, 192.0.2.1/32 }"; got != want {
		t.Errorf("list = %s, want %s", got, want)
	}
}

func TestGuardFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		guard Guard
		want  string
	}{
		{"IPv6", Guard{Denied: []netip.Prefix{netip.MustParsePrefix("fd00::/8")}}, "not an IPv4 range"},
		{"no protocol", Guard{HostPorts: []string{"22"}}, `port "22"`},
		{"words of nft", Guard{HostPorts: []string{"22/tcp accept"}}, "not of the form"},
		{"below nothing", Guard{Limits: Limits{Flows: -1}}, "less than nothing"},
		{"more than the kernel counts", Guard{Limits: Limits{Bandwidth: MaxBandwidth + 1}}, "the bandwidth is not between"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.guard.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestWhatConcernsUs(t *testing.T) {
	message := func(kind uint16, table string) syscall.NetlinkMessage {
		data := append([]byte{unix.NFPROTO_INET, 0, 0, 0}, byte(5+len(table)), 0, 1, 0)
		data = append(append(data, table...), 0)
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind}, Data: append(data, make([]byte, (4-len(data)%4)%4)...)}
	}
	for _, tt := range []struct {
		name    string
		message syscall.NetlinkMessage
		want    bool
	}{
		{"our table goes", message(unix.NFT_MSG_DELTABLE, Table), true},
		{"a rule of ours goes", message(unix.NFT_MSG_DELRULE, Table), true},
		{"a rule comes into our table", message(unix.NFT_MSG_NEWRULE, Table), true},
		{"an element of ours comes", message(unix.NFT_MSG_NEWSETELEM, Table), false},
		{"kube-proxy's rules change", message(unix.NFT_MSG_DELRULE, "kube-proxy"), false},
		{"a table with our name in its own", message(unix.NFT_MSG_DELTABLE, Table+"2"), false},
		{"nothing in it", syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFT_MSG_DELTABLE}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := concernsUs([]syscall.NetlinkMessage{tt.message}); got != tt.want {
				t.Errorf("concernsUs = %v, want %v", got, tt.want)
			}
		})
	}
}
