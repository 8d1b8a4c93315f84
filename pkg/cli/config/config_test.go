package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/hint"
)

// sources reads file (unless empty) as the configuration, with drop-ins by name.
func sources(t *testing.T, file string, dropIns map[string]string) config.Sources {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, file)
	for name, text := range dropIns {
		write(t, filepath.Join(path+".d", name), text)
	}
	return config.Sources{Flags: map[string][]string{"config": {path}}}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func env(pairs map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := pairs[name]; return v, ok }
}

func TestDefaultsAreValid(t *testing.T) {
	cfg, err := config.Load(sources(t, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(cfg.Paths.Data), cfg.Network.ClusterCIDR.String(), cfg.Network.NodePorts.String(), cfg.LogLevel.String(), cfg.Node.Accel}
	if diff := cmp.Diff([]string{"/var/lib/nodeless", "10.42.0.0/16", "30000-32767", "INFO", "auto"}, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	tests := []struct {
		name string
		file string
		env  map[string]string
		flag []string
		want int
	}{
		{name: "default", want: 110},
		{name: "file beats default", file: "max-pods: 20\n", want: 20},
		{name: "environment beats file", file: "max-pods: 20\n", env: map[string]string{"NODELESS_MAX_PODS": "30"}, want: 30},
		{name: "an empty environment variable is none", file: "max-pods: 20\n", env: map[string]string{"NODELESS_MAX_PODS": ""}, want: 20},
		{name: "flag beats environment", file: "max-pods: 20\n", env: map[string]string{"NODELESS_MAX_PODS": "30"}, flag: []string{"40"}, want: 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := sources(t, tt.file, nil)
			src.Env = env(tt.env)
			if tt.flag != nil {
				src.Flags["max-pods"] = tt.flag
			}
			cfg, err := config.Load(src)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Node.MaxPods != tt.want {
				t.Errorf("MaxPods = %d, want %d", cfg.Node.MaxPods, tt.want)
			}
		})
	}
}

func TestListsAndDropIns(t *testing.T) {
	src := sources(t, "tls-san: [a.example, 192.0.2.7]\nkubelet-arg:\n- feature-gates=A=true,B=false\ndisable: dns\n", map[string]string{
		"10-more.yaml":  "tls-san+: [b.example]\ncluster-domain: one.example\n",
		"20-later.yaml": "cluster-domain: two.example\n",
		"ignored.txt":   "nonsense: 1\n",
	})
	src.Env = env(map[string]string{"NODELESS_KUBE_PROXY_ARG": "v=2 x=1,2"})
	src.Flags["disable"] = []string{"dns", "proxy"}
	cfg, err := config.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	got := [][]string{cfg.API.TLSSANs, cfg.Extra.Kubelet, cfg.Extra.Proxy, cfg.Disable, {cfg.Network.Domain}}
	want := [][]string{{"a.example", "192.0.2.7", "b.example"}, {"feature-gates=A=true,B=false"}, {"v=2", "x=1,2"}, {"dns", "proxy"}, {"two.example"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lists (-want +got):\n%s", diff)
	}
}

func TestFileFaultsNameLineAndRemedy(t *testing.T) {
	tests := []struct {
		name, file string
		want       string // end of the error text
		hint       string
	}{
		{name: "unknown key", file: "# mine\ndata-dri: /x\n", want: `config.yaml:2: unknown key "data-dri"`, hint: `did you mean "data-dir"?`},
		{name: "unknown and like nothing", file: "replicas: 3\n", want: `config.yaml:1: unknown key "replicas"`, hint: "valid keys are the flags of `nodeless server --help`"},
		{name: "config cannot name itself", file: "config: /x\n", want: `unknown key "config"`},
		{name: "wrong type", file: "max-pods: many\n", want: `config.yaml:1: max-pods: "many" is not a whole number`, hint: "max-pods: how many Pods the node takes"},
		{name: "list for a scalar", file: "data-dir: /x\nnode-name: [a, b]\n", want: "config.yaml:2: node-name: takes one value, not a list"},
		{name: "table", file: "disable: {dns: true}\n", want: "disable: takes a plain value, not a table"},
		{name: "no value", file: "data-dir:\n", want: "data-dir: has no value"},
		{name: "twice", file: "max-pods: 1\nmax-pods: 2\n", want: `config.yaml:2: key "max-pods" stands on line 1 already`},
		{name: "plus on a scalar", file: "max-pods+: 2\n", want: "nothing can be added to it"},
		{name: "not a table at all", file: "- a\n", want: "config.yaml:1: not a list of keys"},
		{name: "broken YAML", file: "a: [\n", want: "did not find expected node content", hint: "write one `key: value` a line"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Load(sources(t, tt.file, nil))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want it to contain %q", err, tt.want)
			}
			if got := hint.Of(err); tt.hint != "" && (len(got) == 0 || got[0] != tt.hint) {
				t.Errorf("hints = %q, want %q", got, tt.hint)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	src := sources(t, "unknown-thing: 1\n", nil)
	for name, value := range map[string]string{
		"data-dir": "relative", "https-listen-port": "70000", "service-cidr": "10.42.0.0/17", "cluster-dns": "192.0.2.1", "node-name": "Not_Valid",
		"disable": "everything", "accel": "xen", "huge-pages": "always", "max-pods": "0", "service-node-port-range": "9-1", "tls-san": "a b", "kubelet-arg": "v", "node-ip": "x",
		"cgroup-root": "/", "cluster-domain": "-", "datastore-endpoint": "mysql://x", "log-level": "loud", "run-dir": "r", "advertise-address": "127.0.0.1",
		"pod-deny-cidr": "fd00::/8", "pod-allow-from": "everybody", "pod-host-port": "22", "pod-max-flows": "-1", "nodeport-addresses": "127.0.0.0/8",
	} {
		src.Flags[name] = []string{value}
	}
	_, err := config.Load(src)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`unknown key "unknown-thing"`, `check data-dir "relative"`, `check https-listen-port "70000"`, `overlaps cluster-cidr`, `outside of service-cidr`, `check node-name`,
		`check disable "everything"`, `check accel`, `check huge-pages`, `check max-pods`, `service-node-port-range`, `check tls-san`, `check kubelet-arg`, `flag --node-ip: "x" is not an IP address`,
		`check cgroup-root`, `check cluster-domain`, `check datastore-endpoint`, `flag --log-level: "loud" is not`, `check run-dir`, `check advertise-address`,
		`check pod-deny-cidr "fd00::/8"`, `flag --pod-allow-from: "everybody" is not an address range`, `check pod-host-port "22"`, `check pod-max-flows "-1"`, `check nodeport-addresses "127.0.0.0/8"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not reported", want)
		}
	}
}

// TestNamesThatAreTooLong: with some of them the server started, and ended minutes later with words of a library.
func TestNamesThatAreTooLong(t *testing.T) {
	label := strings.Repeat("a", 63)
	for _, tt := range []struct {
		flag, value string
		refused     bool
	}{
		{"node-name", label, false},
		{"node-name", label + "b", true},
		{"node-name", label[:60] + ".b", false},
		{"node-name", label + "." + label, true},
		{"node-name", strings.Repeat("a.", 126) + "a", true},
		{"cluster-domain", label + "." + label[:57], false},
		{"cluster-domain", label + "." + label, true},
		{"run-dir", "/run/" + label, false},
		{"run-dir", "/run/" + label + label, true},
	} {
		src := sources(t, "", nil)
		src.Flags[tt.flag] = []string{tt.value}
		_, err := config.Load(src)
		if (err != nil) != tt.refused || err != nil && (!strings.Contains(err.Error(), "check "+tt.flag) || len(hint.Of(err)) == 0) {
			t.Errorf("%s of %d characters: %v, want it refused, with a hint: %t", tt.flag, len(tt.value), err, tt.refused)
		}
	}
}

func TestRangesThatPodsDoNotReach(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{name: "default", want: "[169.254.0.0/16 100.100.100.200/32 168.63.129.16/32 192.0.0.192/32]"},
		{name: "replaced", file: "pod-deny-cidr: [192.0.2.0/24, 169.254.0.0/16]\n", want: "[192.0.2.0/24 169.254.0.0/16]"},
		{name: "none", file: "pod-deny-cidr: none\n", want: "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Load(sources(t, tt.file, nil))
			if got := fmt.Sprint(cfg.Network.Guard.Denied); err != nil || got != tt.want {
				t.Errorf("ranges = %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := config.Load(config.Sources{Flags: map[string][]string{"config": {missing}}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was asked for and is not there: error = %v", err)
	}
}

func TestComplete(t *testing.T) {
	cfg, err := config.Load(sources(t, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.5")
	got, err := cfg.Complete(func() (string, error) { return "Host.Example.", nil }, func() (netip.Addr, error) { return addr, nil })
	if err != nil {
		t.Fatal(err)
	}
	if got.Node.Name != config.NodeName("host.example") || !regexp.MustCompile(`^eklet-subnet-[0-9a-f]{8}$`).MatchString(got.Node.Name) || got.Node.IP != addr || got.API.Advertise != addr {
		t.Errorf("completed = %q %s %s", got.Node.Name, got.Node.IP, got.API.Advertise)
	}
	_, err = cfg.Complete(func() (string, error) { return "h", nil }, func() (netip.Addr, error) { return netip.MustParseAddr("10.42.3.4"), nil })
	if err == nil || !strings.Contains(err.Error(), "inside cluster-cidr") {
		t.Errorf("a host inside the Pod range: error = %v", err)
	}
}

func TestEachOptionIsNamedOnceAndShownWithUsage(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range config.Options() {
		if seen[o.Name] || o.Usage == "" {
			t.Errorf("option %q: twice or without usage", o.Name)
		}
		seen[o.Name] = true
	}
}

// TestHostPathNamesNamespaces: the value that gave the host to all of a cluster is refused, with the new form.
func TestHostPathNamesNamespaces(t *testing.T) {
	for _, tt := range []struct {
		flags []string
		want  []string
		fault string // text of the hint
	}{
		{want: nil},
		{flags: []string{"deny"}, want: nil},
		{flags: []string{"tools,backup"}, want: []string{"tools", "backup"}},
		{flags: []string{"tools", "backup"}, want: []string{"tools", "backup"}},
		{flags: []string{"allow"}, fault: "host-path=tools,backup"},
		{flags: []string{"deny,tools"}, fault: "name namespaces"},
		{flags: []string{"*"}, fault: "name namespaces"},
	} {
		src := sources(t, "", nil)
		if tt.flags != nil {
			src.Flags["host-path"] = tt.flags
		}
		cfg, err := config.Load(src)
		if tt.fault != "" {
			if hints := strings.Join(hint.Of(err), "; "); !strings.Contains(hints, tt.fault) {
				t.Errorf("host-path %q: %v with the hint %q, want one with %q", tt.flags, err, hints, tt.fault)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, cfg.Specs.HostPathNamespaces()); diff != "" || err != nil {
			t.Errorf("host-path %q: %v, namespaces (-want +got):\n%s", tt.flags, err, diff)
		}
	}
}

// TestSizingAndHostPorts: the defaults are the cloud's; another word than the two is refused with what there is.
func TestSizingAndHostPorts(t *testing.T) {
	for _, tt := range []struct {
		file          string
		native, ports bool
		fault         string
	}{
		{file: ""},
		{file: "sizing: native\nhost-port: allow\n", native: true, ports: true},
		{file: "sizing: spec\nhost-port: deny\n"},
		{file: "sizing: none\n", fault: "choose of spec, native"},
		{file: "host-port: \"8080\"\n", fault: "choose of deny, allow"},
	} {
		cfg, err := config.Load(sources(t, tt.file, nil))
		if tt.fault != "" {
			var said *hint.Error
			if !errors.As(err, &said) || said.Do != tt.fault {
				t.Errorf("%q: %v, want the hint %q", tt.file, err, tt.fault)
			}
			continue
		}
		if err != nil || cfg.Specs.Native() != tt.native || cfg.Specs.HostPorts() != tt.ports {
			t.Errorf("%q: native %v, host ports %v, %v", tt.file, cfg.Specs.Native(), cfg.Specs.HostPorts(), err)
		}
	}
}
