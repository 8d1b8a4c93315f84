package netdev

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodeless/nodeless/pkg/hint"
)

// ErrNoTable is an element for a table that is not there: nothing would hold the Pod back.
var ErrNoTable = errors.New("the host's packet rules for Pods are not there")

// Rules keeps both tables of nftables as they must be.
type Rules struct {
	cfg  Config
	have string // the structure as nft lists it, after it was last loaded
	max  int    // of tracked connections, by which limits were lowered then
}

// NewRules gives rules that have not touched the host yet.
func NewRules(c Config) *Rules { return &Rules{cfg: c} }

// Set makes the tables say what the configuration and the links ask for, and tells whether somebody had changed them. The first call
// always loads them. Connections that they refuse end.
func (r *Rules) Set(links []Link) (changed bool, err error) {
	if err := errors.Join(r.cfg.Validate(), r.cfg.Guard.Validate()); err != nil {
		return false, err
	}
	if r.have == "" {
		if err := noStrangers(); err != nil {
			return false, err
		}
	}
	most := conntrackMax(r.cfg.ProcSys)
	known := r.have != "" && r.max == most
	if known && structure(r.cfg) == r.have {
		have, err := permitted(r.cfg)
		ports, portsErr := mapped(r.cfg)
		if errors.Join(err, portsErr) == nil && slices.EqualFunc(have, sorted(links), Link.same) && slices.Equal(ports, wanted(links)) {
			return false, nil
		}
	}
	if err := r.cfg.nft(text(r.cfg, most, links)); err != nil {
		return false, &hint.Error{Op: "set packet rules for Pods", Err: err,
			Do: "run as root on a kernel with nf_tables (modprobe nf_tables nft_ct nft_limit nft_connlimit nft_reject_inet nft_nat nft_fib_inet nf_conntrack)"}
	}
	r.have, r.max = structure(r.cfg), most
	return known, EndRefused(r.cfg)
}

// noStrangers fails where a link of the host has a name that the rules take for a Pod's: they would cut it off.
func noStrangers() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; strings.HasPrefix(name, PodLinkPrefix) && !isPodLink(name) && l.Type() != "nlmon" {
			return &hint.Error{Op: "set packet rules for Pods", Err: fmt.Errorf("the host has a device %s, and names with %s are those of Pods' links", name, PodLinkPrefix),
				Do: fmt.Sprintf("rename it, as in `ip link set %s name lan-%[1]s`", name)}
		}
	}
	return nil
}

// Permit lets a link's Pod send, from its own addresses alone. It fails where the tables are not there.
func Permit(c Config, l Link) error {
	if err := c.nft(l.elements("add")); err != nil {
		if structure(c) == "" {
			err = fmt.Errorf("%w: %w", ErrNoTable, err)
		}
		return fmt.Errorf("let %s send from %s: %w", l.Name, l.Addr, err)
	}
	return nil
}

// Forbid undoes Permit. What is already gone, with the tables or without, counts as done.
func Forbid(c Config, l Link) error {
	// An element that is not there cannot be deleted: it is added first.
	if err := c.nft(l.elements("add") + l.elements("delete")); err != nil && structure(c) != "" {
		return fmt.Errorf("forbid %s to send: %w", l.Name, err)
	}
	return nil
}

// removeTables takes both tables away. One that is not there counts as removed.
func removeTables(c Config) error {
	return c.nft(fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\ntable arp %[1]s\ndelete table arp %[1]s\n", Table))
}

// structure is what nft lists of the tables, without counters and without what is in named sets; empty if one is not there.
func structure(c Config) string {
	var all string
	for _, family := range []string{"inet", "arp"} {
		out, err := exec.Command(c.nftProgram(), "--stateless", "--terse", "list", "table", family, Table).Output()
		if err != nil {
			return ""
		}
		all += string(out)
	}
	return all
}

// permitted lists the links that may send now.
func permitted(c Config) ([]Link, error) {
	inet, err := elements(c, "inet")
	if err != nil {
		return nil, err
	}
	arp, err := elements(c, "arp")
	if err != nil {
		return nil, err
	}
	sent, err := caps(c, cappedOut)
	if err != nil {
		return nil, err
	}
	received, err := caps(c, cappedIn)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, e := range inet {
		if len(e) != 3 {
			return nil, fmt.Errorf("list set source: %q is no link", e)
		}
		if !slices.ContainsFunc(arp, func(a []string) bool { return slices.Equal(a, []string{e[0], e[2]}) }) {
			continue
		}
		var l Link
		l.Name, l.MAC, l.Sent, l.Received = e[0], e[1], sent[e[0]], received[e[0]]
		if err := l.Addr.UnmarshalText([]byte(e[2])); err != nil {
			return nil, fmt.Errorf("list set source: %w", err)
		}
		links = append(links, l)
	}
	if len(links) != len(arp) {
		return nil, errors.New("list set source: the two tables differ")
	}
	return sorted(links), nil
}

func elements(c Config, family string) ([][]string, error) {
	out, err := exec.Command(c.nftProgram(), "--json", "list", "set", family, Table, "source").Output()
	if err != nil {
		return nil, fmt.Errorf("list set source: %w", err)
	}
	var reply struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Concat []string
				}
			}
		}
	}
	if err := json.Unmarshal(out, &reply); err != nil {
		return nil, fmt.Errorf("list set source: %w", err)
	}
	var all [][]string
	for _, object := range reply.Nftables {
		for _, e := range object.Set.Elem {
			all = append(all, e.Concat)
		}
	}
	return all, nil
}

// caps are the bandwidths of links in one of the sets, in bytes a second.
func caps(c Config, set string) (map[string]int64, error) {
	out, err := exec.Command(c.nftProgram(), "--json", "list", "set", "inet", Table, set).Output()
	if err != nil {
		return nil, fmt.Errorf("list set %s: %w", set, err)
	}
	var reply struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val   string
						Limit struct {
							Rate int64
							Unit string `json:"rate_unit"`
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(out, &reply); err != nil {
		return nil, fmt.Errorf("list set %s: %w", set, err)
	}
	rates := map[string]int64{}
	for _, object := range reply.Nftables {
		for _, e := range object.Set.Elem {
			shift := slices.Index([]string{"bytes", "kbytes", "mbytes", "gbytes"}, e.Elem.Limit.Unit)
			if shift < 0 {
				return nil, fmt.Errorf("list set %s: %q has no bandwidth", set, e.Elem.Val)
			}
			rates[e.Elem.Val] = e.Elem.Limit.Rate << (10 * shift)
		}
	}
	return rates, nil
}

func sorted(links []Link) []Link {
	return slices.SortedFunc(slices.Values(links), func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
}

func (c Config) nftProgram() string {
	if c.NFT != "" {
		return c.NFT
	}
	return "nft"
}

// nft has the program do all of script, or none of it.
func (c Config) nft(script string) error {
	cmd := exec.Command(c.nftProgram(), "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("run nft: %w: %s", err, first)
	}
	return nil
}

// conntrackMax is how many connections the kernel tracks, 0 if it does not say.
func conntrackMax(procSys string) int {
	if procSys == "" {
		procSys = defaultProcSys
	}
	raw, err := os.ReadFile(filepath.Join(procSys, "net/netfilter/nf_conntrack_max"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return n
}
