package teardown

import "testing"

func TestATableIsBare(t *testing.T) {
	const left = "# Warning: table ip nat is managed by iptables-nft, do not touch!\ntable ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}\n}\n"
	tests := []struct {
		name, listing string
		want          bool
	}{
		{"as iptables leaves it", left, true},
		{"a rule", "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tmasquerade\n\t}\n}\n", false},
		{"a policy that drops", "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n", false},
		{"somebody's chain, empty as yet", "table ip filter {\n\tchain DOCKER-USER {\n\t}\n}\n", false},
		{"a set", "table ip filter {\n\tset allowed {\n\t\ttype ipv4_addr\n\t}\n}\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := isBare(tt.listing); got != tt.want {
				t.Errorf("isBare = %v, want %v", got, tt.want)
			}
		})
	}
}

// TestTheOperatorsFileSystemStays: a disk mounted on the data dir was taken off, with our data on it.
func TestTheOperatorsFileSystemStays(t *testing.T) {
	h := newFakeHost(t, map[string]string{
		"proc/self/mountinfo": "1 0 0:1 / ROOT/data rw - ext4 x rw\n2 1 0:2 / ROOT/data/agent/kubelet/pods/a rw - tmpfs x rw\n3 1 0:3 / ROOT/run/nodeless rw - tmpfs x rw\n",
	}, nil)
	in := Installation{Host: h.Host, DataDir: "data", RunDir: "run/nodeless"}
	points, err := in.mounts()
	if want := h.path("data/agent/kubelet/pods/a"); err != nil || len(points) != 1 || points[0] != want {
		t.Errorf("mounts to remove = %q, %v; want only %s", points, err, want)
	}
}
