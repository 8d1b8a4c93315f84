package server

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/server/credentials"
)

type named string

func (n named) Name() string              { return string(n) }
func (n named) Run(context.Context) error { return nil }

func validConfig() Config {
	return Config{
		Data: datadir.Dir("/data"), Run: datadir.RunDir("/run/x"), Kubeconfig: "/etc/kubeconfig", NodeName: "node1",
		NodeIP: netip.MustParseAddr("192.0.2.7"), Bind: netip.IPv4Unspecified(), Port: 6443,
		ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), NodePorts: "30000-32767", DNS: netip.MustParseAddr("10.43.0.10"),
		DNSBind: netip.MustParseAddr("10.42.0.1"), Domain: "cluster.local",
	}
}

func TestSteps(t *testing.T) {
	worker := []run.Step{{Component: named("network")}, {Component: named("kubelet"), After: []string{"apiserver"}}, {Component: named("proxy"), After: []string{"kubelet"}}}
	tests := []struct {
		name   string
		change func(*Config)
		worker []run.Step
		want   []string
	}{
		{
			name: "control plane and worker", worker: worker,
			want: []string{"datastore", "libraries", "apiserver: datastore", "certificates", "heap", "meter", "billing: meter", "controller-manager: apiserver", "bootstrap: apiserver", "eklet: bootstrap", "spot: bootstrap", "recovery: bootstrap", "cronscaler: bootstrap",
				"volume-plugins: apiserver", "node-keeper: apiserver", "network", "kubelet: apiserver volume-plugins", "proxy: kubelet", "dns: bootstrap network proxy", "schedulable-node: apiserver", "metrics: bootstrap schedulable-node", "scheduler: schedulable-node"},
		},
		{
			name: "control plane alone",
			want: []string{"datastore", "libraries", "apiserver: datastore", "certificates", "heap", "meter", "billing: meter", "controller-manager: apiserver", "bootstrap: apiserver", "eklet: bootstrap", "spot: bootstrap", "recovery: bootstrap", "cronscaler: bootstrap",
				"dns: bootstrap", "metrics: bootstrap apiserver", "scheduler: apiserver"},
		},
		{
			name: "external datastore, no name server, no metrics", change: func(c *Config) { c.Datastore, c.NoDNS, c.NoMetrics = "http://127.0.0.1:2379", true, true },
			want: []string{"libraries", "apiserver", "certificates", "heap", "meter", "billing: meter", "controller-manager: apiserver", "bootstrap: apiserver", "eklet: bootstrap", "spot: bootstrap", "recovery: bootstrap", "cronscaler: bootstrap", "scheduler: apiserver"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := validConfig()
			if tt.change != nil {
				tt.change(&cfg)
			}
			var got []string
			for _, s := range steps(cfg, credentials.Locate(cfg.credentials()), accounts{}, tt.worker, slog.New(slog.DiscardHandler)) {
				got = append(got, strings.TrimSuffix(s.Name()+": "+strings.Join(s.After, " "), ": "))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	if err := validConfig().Validate(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	cfg := validConfig()
	cfg.NodeName, cfg.DNS = "", netip.MustParseAddr("10.42.0.10")
	err := cfg.Validate()
	for _, want := range []string{"no node name", "outside the service range"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q in it", err, want)
		}
	}
}
