package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/coreos/go-iptables/iptables"

	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// PostroutingChain holds the masquerade rules.
	PostroutingChain = "NODELESS-POSTROUTING"
	// ForwardChain lets Pod traffic through hosts whose forward policy is to drop. What Pods may not have is dropped by Rules nevertheless.
	ForwardChain = "NODELESS-FORWARD"
)

// chain is one of our chains: where it is hooked in, and its rules in order.
type chain struct {
	table, parent, name string
	rules               [][]string
}

// chains is the whole desired state, computed from ranges alone.
func chains(cluster netip.Prefix, allowFrom []netip.Prefix, randomFully bool) []chain {
	pods := cluster.Masked().String()
	masquerade := []string{"-s", pods, "-m", "comment", "--comment", "nodeless: Pods that leave the cluster", "-j", "MASQUERADE"}
	if randomFully {
		masquerade = append(masquerade, "--random-fully")
	}
	forward := [][]string{
		{"-s", pods, "-m", "comment", "--comment", "nodeless: from Pods", "-j", "ACCEPT"},
		{"-d", pods, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-m", "comment", "--comment", "nodeless: to Pods", "-j", "ACCEPT"},
	}
	for _, from := range allowFrom {
		forward = append(forward, []string{"-s", from.Masked().String(), "-d", pods, "-m", "comment", "--comment", "nodeless: allowed", "-j", "ACCEPT"})
	}
	return []chain{
		{table: "nat", parent: "POSTROUTING", name: PostroutingChain, rules: [][]string{
			{"-s", pods, "-d", pods, "-m", "comment", "--comment", "nodeless: Pod to Pod", "-j", "RETURN"},
			{"-s", pods, "-d", "224.0.0.0/4", "-m", "comment", "--comment", "nodeless: multicast", "-j", "RETURN"},
			masquerade,
		}},
		{table: "filter", parent: "FORWARD", name: ForwardChain, rules: forward},
	}
}

func applyRules(c Config) error {
	ipt, err := open(c)
	if err != nil {
		return err
	}
	for _, ch := range chains(c.ClusterCIDR, c.Guard.AllowFrom, ipt.HasRandomFully()) {
		if err := applyChain(ipt, ch); err != nil {
			return err
		}
	}
	return nil
}

// applyChain fills the chain only if it is not already right: a refill would let packets through unchanged meanwhile.
func applyChain(ipt *iptables.IPTables, ch chain) error {
	right, err := isRight(ipt, ch)
	if err != nil {
		return err
	}
	if !right {
		if err := ipt.ClearChain(ch.table, ch.name); err != nil {
			return unusable(fmt.Errorf("make chain %s: %w", ch.name, err))
		}
		for _, rule := range ch.rules {
			if err := ipt.Append(ch.table, ch.name, rule...); err != nil {
				return unusable(fmt.Errorf("add a rule to %s: %w", ch.name, err))
			}
		}
	}
	if err := ipt.InsertUnique(ch.table, ch.parent, 1, hook(ch)...); err != nil {
		return unusable(fmt.Errorf("hook %s into %s: %w", ch.name, ch.parent, err))
	}
	return nil
}

func isRight(ipt *iptables.IPTables, ch chain) (bool, error) {
	exists, err := ipt.ChainExists(ch.table, ch.name)
	if err != nil {
		return false, unusable(fmt.Errorf("look for chain %s: %w", ch.name, err))
	}
	if !exists {
		return false, nil
	}
	have, err := ipt.List(ch.table, ch.name)
	if err != nil {
		return false, unusable(fmt.Errorf("list chain %s: %w", ch.name, err))
	}
	if len(have) != len(ch.rules)+1 { // the first line is the chain itself
		return false, nil
	}
	for _, rule := range ch.rules {
		if has, err := ipt.Exists(ch.table, ch.name, rule...); err != nil || !has {
			return false, err
		}
	}
	return true, nil
}

func removeRules(c Config) error {
	ipt, err := open(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, ch := range chains(netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil, false) {
		exists, err := ipt.ChainExists(ch.table, ch.name)
		if err != nil || !exists {
			errs = append(errs, err)
			continue
		}
		if err := ipt.DeleteIfExists(ch.table, ch.parent, hook(ch)...); err != nil {
			errs = append(errs, fmt.Errorf("unhook %s: %w", ch.name, err))
			continue
		}
		if err := ipt.ClearAndDeleteChain(ch.table, ch.name); err != nil {
			errs = append(errs, fmt.Errorf("remove chain %s: %w", ch.name, err))
		}
	}
	return errors.Join(errs...)
}

func hook(ch chain) []string {
	return []string{"-m", "comment", "--comment", "nodeless", "-j", ch.name}
}

func open(c Config) (*iptables.IPTables, error) {
	var ipt *iptables.IPTables
	var err error
	if c.IPTables != "" {
		ipt, err = iptables.New(iptables.Path(c.IPTables), iptables.Timeout(5))
	} else {
		ipt, err = iptables.New(iptables.Timeout(5))
	}
	if err != nil {
		return nil, unusable(fmt.Errorf("start iptables: %w", err))
	}
	return ipt, nil
}

func unusable(err error) error {
	return &hint.Error{Op: "set packet rules", Err: err,
		Do: "run as root on a kernel with nf_tables and nat (modprobe nf_tables nft_compat nft_chain_nat xt_MASQUERADE xt_comment xt_conntrack)"}
}
