package testbed

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRulesAreNamedByTheirChain(t *testing.T) {
	const listed = `# Warning: a table is managed by iptables-nft
table ip nat {
	chain B {
		ip daddr 10.0.0.1 drop
	}

	set ips {
		elements = { 10.0.0.7 expires 2h3m }
	}
	set pace {
		flags dynamic,timeout
		elements = { "nl0123abcd" limit rate over 5/second,
			     "nl0123abce" limit rate over 5/second }
	}
	chain A {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
`
	want := []string{
		"table ip nat",
		"table ip nat / chain A",
		"table ip nat / chain A: type nat hook postrouting priority srcnat; policy accept;",
		"table ip nat / chain B",
		"table ip nat / chain B: ip daddr 10.0.0.1 drop",
		"table ip nat / set ips",
		"table ip nat / set ips: elements = { 10.0.0.7 }",
		"table ip nat / set pace",
	}
	if diff := cmp.Diff(want, rules(listed)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
