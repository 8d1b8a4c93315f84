package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Table is the name of our two tables of nftables, one of family inet and one of family arp.
const Table = "nodeless"

// Guard says what Pods may reach, and who may reach them. The zero value is closed: of the host Pods reach DNS and echo alone.
type Guard struct {
	Services  netip.Prefix   // range of ClusterIPs; invalid: none
	APIPort   int            // of the apiserver on this host; 0: none
	Denied    []netip.Prefix // what no Pod reaches, such as the metadata service of a cloud
	AllowFrom []netip.Prefix // who outside of the cluster reaches Pods and ClusterIPs by their own addresses
	HostPorts []string       // what else of the host Pods reach, such as "5432/tcp"
	PodPorts  bool           // ports of the host lead to Pods that ask for them
	Limits    Limits         // of each Pod
}

// Limits bound what one Pod takes of what the host's kernel shares among all. 0 is no limit.
type Limits struct {
	Flows    int // open at one time
	NewFlows int // in a second
	Packets  int // in a second, sent
	// Bandwidth is how many bytes in a second are sent, and as many received.
	Bandwidth int64
}

// MetadataServices are where clouds tell a host its secrets: link-local, and those of Alibaba Cloud, Azure and Oracle.
func MetadataServices() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.100.100.200/32"),
		netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.192/32"),
	}
}

// DefaultLimits are far above what an honest Pod needs.
func DefaultLimits() Limits {
	return Limits{Flows: 20_000, NewFlows: 2_000, Packets: 200_000, Bandwidth: 10_000_000_000 / 8}
}

// MaxBandwidth is the largest bandwidth in bytes a second: with more, the kernel cannot count.
const MaxBandwidth = 8_000_000_000

const (
	// timeWait is how many seconds the kernel remembers a closed connection.
	timeWait = 120
	// burst is for how many seconds a Pod may save up new flows.
	burst = 5
	// share is how many open flows are counted together, if there are as many: for each new one the kernel goes through all of them, which
	// with 20,000 took it milliseconds.
	share = 300
	// maxShares bounds the shares of one Pod.
	maxShares = 64
	// maxCalls is how many connections by TCP one Pod has open to the apiserver and the name server together. Each costs the server's process,
	// which is one for all, a file and tens of KiB of memory. A client of the apiserver has one or two.
	maxCalls = 256
)

// within lowers the limits so far that one Pod cannot fill a table of tracked connections of that size: an eighth is open, and a
// quarter is what it has just closed. A size that is not known (0) changes nothing.
func (l Limits) within(conntrackMax int) Limits {
	if conntrackMax <= 0 {
		return l
	}
	if l.Flows > 0 {
		l.Flows = min(l.Flows, max(conntrackMax/8, 1))
	}
	if l.NewFlows > 0 {
		l.NewFlows = min(l.NewFlows, max(conntrackMax/4/timeWait, 1))
	}
	return l
}

// Validate reports all faults at once.
func (g Guard) Validate() error {
	var errs []error
	for _, p := range slices.Concat(g.Denied, g.AllowFrom) {
		if !p.IsValid() || !p.Addr().Is4() {
			errs = append(errs, fmt.Errorf("range %s: not an IPv4 range", p))
		}
	}
	for _, text := range g.HostPorts {
		_, _, err := ParsePort(text)
		errs = append(errs, err)
	}
	if g.Limits.Flows < 0 || g.Limits.NewFlows < 0 || g.Limits.Packets < 0 {
		errs = append(errs, fmt.Errorf("limits %+v: less than nothing", g.Limits))
	}
	if g.Limits.Bandwidth < 0 || g.Limits.Bandwidth > MaxBandwidth {
		errs = append(errs, fmt.Errorf("limits %+v: the bandwidth is not between 0 and %d", g.Limits, MaxBandwidth))
	}
	return errors.Join(errs...)
}

// ParsePort reads a port of the host such as "5432/tcp".
func ParsePort(text string) (port int, protocol string, err error) {
	number, protocol, _ := strings.Cut(text, "/")
	port, err = strconv.Atoi(number)
	if err != nil || port < 1 || port > 65535 || protocol != "tcp" && protocol != "udp" {
		return 0, "", fmt.Errorf("port %q: not of the form 5432/tcp or 514/udp", text)
	}
	return port, protocol, nil
}

// Link is the host's end of a Pod's link, and what may come in by it.
type Link struct {
	Name string     `json:"name"`
	MAC  string     `json:"mac"`
	Addr netip.Addr `json:"address"`

	Ports []HostPort `json:"ports,omitempty"` // of the host, which lead here
	// Sent and Received are bounds of this Pod's own, in bytes a second; 0 is none. What all Pods are bound to holds besides.
	Sent     int64 `json:"sent,omitempty"`
	Received int64 `json:"received,omitempty"`
}

// The sets of links that have a bandwidth of their own.
const (
	cappedOut = "capped_out"
	cappedIn  = "capped_in"
)

func (l Link) elements(verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%[1]s element inet %[2]s source { %[3]q . %[4]s . %[5]s }\n%[1]s element arp %[2]s source { %[3]q . %[5]s }\n",
		verb, Table, l.Name, l.MAC, l.Addr)
	for _, cap := range []struct {
		set  string
		rate int64
	}{{cappedOut, l.Sent}, {cappedIn, l.Received}} {
		switch {
		case cap.rate <= 0:
		case verb == "add":
			fmt.Fprintf(&b, "add element inet %s %s { %q %s }\n", Table, cap.set, l.Name, bandwidth(cap.rate))
		default:
			fmt.Fprintf(&b, "%s element inet %s %s { %q }\n", verb, Table, cap.set, l.Name)
		}
	}
	b.WriteString(l.portElements(verb))
	return b.String()
}

// bandwidth is what matches packets that are too much. A quarter of a second may be saved up, and always a few of the largest packets.
func bandwidth(rate int64) string {
	const least = 256 << 10
	return fmt.Sprintf("limit rate over %d bytes/second burst %d bytes", rate, max(rate/4, least))
}

// text is both tables, in the words of nft: they replace what is there in one transaction, with what is needed for each link.
func text(c Config, conntrackMax int, links []Link) string {
	var b strings.Builder
	for _, family := range []string{"inet", "arp"} {
		fmt.Fprintf(&b, "table %s %s\ndelete table %[1]s %[2]s\n", family, Table)
	}
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	b.WriteString(sets)
	b.WriteString(portMaps)
	writeChain(&b, "early", "type filter hook prerouting priority -450; policy accept;", `iifname "nl*" jump pod_early`)
	writeChain(&b, "pod_early", early(c.Guard.Limits)...)
	writeChain(&b, "late", "type filter hook postrouting priority 450; policy accept;", `oifname "nl*" jump pod_late`)
	writeChain(&b, "pod_late", late(c.Guard.Limits)...)
	writeChain(&b, "bounds", bounds(c.Guard.Limits.within(conntrackMax))...)
	writeChain(&b, "input", input(c)...)
	writeChain(&b, "pod_input", podInput(c)...)
	writeChain(&b, "forward", forward(c.Guard)...)
	writeChain(&b, "pod_forward", podForward(c.Guard)...)
	writeChain(&b, "to_pod", toPod(c.Guard)...)
	if c.Guard.PodPorts {
		writePortChains(&b, c)
	}
	b.WriteString("}\n")
	fmt.Fprintf(&b, arpTable, Table)
	for _, l := range links {
		b.WriteString(l.elements("add"))
	}
	return b.String()
}

// Probe is a script for nft that loads all kinds of rules that Rules may set, for who wants to know whether the kernel has them.
func Probe() string {
	all := Guard{
		Services: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 43}), 16), APIPort: 6443, Denied: MetadataServices(),
		AllowFrom: MetadataServices(), HostPorts: []string{"5432/tcp", "514/udp"}, PodPorts: true, Limits: DefaultLimits(),
	}
	return text(Config{Gateway: netip.AddrFrom4([4]byte{10, 42, 0, 1}), Guard: all}, 0,
		[]Link{{Name: "nl00000000", MAC: "02:00:00:00:00:01", Addr: netip.AddrFrom4([4]byte{10, 42, 0, 2}), Sent: 125000, Received: 125000}})
}

// sets: a link without an element in source cannot send. The elements of capped_out and capped_in have bounds of their own; the one in the
// set's declaration says of what kind they are. The others count by link; the kernel drops what no longer counts anything.
const sets = `	set source { type ifname . ether_addr . ipv4_addr; }
	set pace { type ifname; size 65535; flags dynamic,timeout; timeout 1m; }
	set fresh { type ifname; size 65535; flags dynamic,timeout; timeout 1m; }
	set flows { type ifname . mark; size 262144; flags dynamic; }
	set calls { type ifname; size 65535; flags dynamic; }
	set sent { type ifname; size 65535; flags dynamic,timeout; timeout 1m; }
	set received { type ifname; size 65535; flags dynamic,timeout; timeout 1m; }
	set capped_out { type ifname; limit rate over 1000000000 bytes/second burst 1000000000 bytes; }
	set capped_in { type ifname; limit rate over 1000000000 bytes/second burst 1000000000 bytes; }
`

// arpTable lets the host learn a Pod's address alone: its table of neighbours is one for all.
const arpTable = `table arp %s {
	set source { type ifname . ipv4_addr; }
	set pace { type ifname; size 65535; flags dynamic,timeout; timeout 1m; }
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "nl*" iifname . arp saddr ip != @source counter drop
		iifname "nl*" update @pace { iifname limit rate over 500/second burst 500 packets } counter drop
	}
}
`

func writeChain(b *strings.Builder, name string, rules ...string) {
	fmt.Fprintf(b, "\tchain %s {\n", name)
	for _, r := range rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

// early comes before fragments are put together, so that none with another's address waits for its rest.
func early(l Limits) []string {
	rules := []string{"meta nfproto ipv6 counter drop", "ip daddr 127.0.0.0/8 counter drop", "iifname . ether saddr . ip saddr != @source counter drop"}
	if l.Packets > 0 {
		rules = append(rules, fmt.Sprintf("update @pace { iifname limit rate over %d/second burst %[1]d packets } counter drop", l.Packets))
	}
	rules = append(rules, "iifname @capped_out counter drop")
	if l.Bandwidth > 0 {
		rules = append(rules, fmt.Sprintf("update @sent { iifname %s } counter drop", bandwidth(l.Bandwidth)))
	}
	return rules
}

// late is what a Pod is sent, by the host as well.
func late(l Limits) []string {
	rules := []string{"oifname @capped_in counter drop"}
	if l.Bandwidth > 0 {
		rules = append(rules, fmt.Sprintf("update @received { oifname %s } counter drop", bandwidth(l.Bandwidth)))
	}
	return rules
}

// bounds is passed by each new flow of a Pod. What belongs to no flow goes no further: it would count for nothing.
func bounds(l Limits) []string {
	rules := []string{"ct state established,related accept", "ct state invalid counter drop"}
	if l.NewFlows > 0 {
		rules = append(rules, fmt.Sprintf("update @fresh { iifname limit rate over %d/second burst %d packets } counter drop", l.NewFlows, burst*l.NewFlows))
	}
	if l.Flows > 0 {
		rules = append(rules, openFlows(l.Flows)...)
	}
	return rules
}

// openFlows spreads the flows over shares by where they lead and where they come from. Connections that are closed do not count.
func openFlows(most int) []string {
	shares := min(max(most/share, 1), maxShares)
	each := (most + shares - 1) / shares
	return []string{
		fmt.Sprintf("meta l4proto { tcp, udp } add @flows { iifname . jhash ip daddr . th sport mod %d ct count over %d } counter drop", shares, each),
		fmt.Sprintf("meta l4proto != { tcp, udp } add @flows { iifname . jhash ct original ip daddr mod %d ct count over %d } counter drop", shares, each),
	}
}

// input is who reaches what the cluster has on the host, by its own address or by a ClusterIP. The apiserver's port is the host's own.
func input(c Config) []string {
	rules := []string{"type filter hook input priority filter; policy accept;", `iifname "nl*" jump pod_input`,
		fmt.Sprintf(`iifname != "lo" ip daddr %s ct state new ct status & dnat != dnat counter drop`, c.Gateway)}
	if !c.Guard.Services.IsValid() {
		return rules
	}
	others := ""
	if len(c.Guard.AllowFrom) > 0 {
		others = fmt.Sprintf("ip saddr != %s ", list(c.Guard.AllowFrom))
	}
	return append(rules, fmt.Sprintf(`iifname != "lo" %sct state new ct original ip daddr %s counter drop`, others, c.Guard.Services.Masked()))
}

// podInput is what Pods reach of the host.
func podInput(c Config) []string {
	rules := []string{"jump bounds", fmt.Sprintf("tcp dport { %s } add @calls { iifname ct count over %d } counter drop", callPorts(c), maxCalls),
		fmt.Sprintf("ip daddr %s meta l4proto { tcp, udp } th dport 53 accept", c.Gateway)}
	if c.Guard.APIPort > 0 {
		rules = append(rules, fmt.Sprintf("tcp dport %d accept", c.Guard.APIPort))
	}
	for _, text := range c.Guard.HostPorts {
		if port, protocol, err := ParsePort(text); err == nil { // Validate has seen it
			rules = append(rules, fmt.Sprintf("%s dport %d accept", protocol, port))
		}
	}
	return append(rules, "icmp type echo-request accept", "meta l4proto tcp counter reject with tcp reset", "counter reject with icmp admin-prohibited")
}

// callPorts are those of the server's process.
func callPorts(c Config) string {
	if c.Guard.APIPort > 0 && c.Guard.APIPort != 53 {
		return fmt.Sprintf("53, %d", c.Guard.APIPort)
	}
	return "53"
}

// forward has one rule for all: a Service that somebody has pointed at what Pods do not reach leads nowhere.
func forward(g Guard) []string {
	rules := []string{"type filter hook forward priority filter; policy accept;", `iifname "nl*" jump pod_forward`}
	if len(g.Denied) > 0 {
		rules = append(rules, fmt.Sprintf("ct status dnat ip daddr %s counter drop", list(g.Denied)))
	}
	return append(rules, `oifname "nl*" jump to_pod`)
}

func podForward(g Guard) []string {
	var rules []string
	if len(g.Denied) > 0 {
		rules = append(rules, fmt.Sprintf("ip daddr %s counter reject with icmp admin-prohibited", list(g.Denied)))
	}
	return append(rules, "jump bounds")
}

// toPod is who reaches Pods through this host: Pods, and who has asked a node port. What the host itself sends does not come by here.
func toPod(g Guard) []string {
	rules := []string{"ct state established,related accept", `iifname "nl*" accept`}
	if len(g.AllowFrom) > 0 {
		rules = append(rules, fmt.Sprintf("ip saddr %s accept", list(g.AllowFrom)))
	}
	if g.Services.IsValid() {
		rules = append(rules, fmt.Sprintf("ct original ip daddr %s counter drop", g.Services.Masked()))
	}
	return append(rules, "ct status dnat accept", "counter drop")
}

// list is a set of ranges without a name. nft takes no range that is in another.
func list(ranges []netip.Prefix) string {
	var out []string
	for i, p := range ranges {
		inAnother := func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) }
		same := func(o netip.Prefix) bool { return o.Masked() == p.Masked() }
		if !slices.ContainsFunc(ranges, inAnother) && !slices.ContainsFunc(ranges[:i], same) {
			out = append(out, p.Masked().String())
		}
	}
	return "{ " + strings.Join(out, ", ") + " }"
}
