package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommand(t *testing.T) {
	loader := []string{"/b/netfilter/lib/ld-linux-x86-64.so.2", "--argv0"}
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{name: "iptables", args: []string{"-t", "nat"}, want: append(loader, "iptables", "--library-path", "/b/netfilter/lib", "/b/netfilter/bin/xtables-nft-multi", "-t", "nat")},
		{name: "ip6tables-restore", want: append(loader, "ip6tables-restore", "--library-path", "/b/netfilter/lib", "/b/netfilter/bin/xtables-nft-multi")},
		{name: "nft", args: []string{"-f", "-"}, want: append(loader, "nft", "--library-path", "/b/netfilter/lib", "/b/netfilter/bin/nft", "-f", "-")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := command("/b", tt.name, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
		})
	}
	if argv, err := command("/b", "sh", nil); err == nil {
		t.Errorf("an unknown name gave %q", argv)
	}
}
