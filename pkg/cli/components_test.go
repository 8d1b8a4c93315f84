package cli

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/hint"
)

// settingsWith are those of a server with flags.
func settingsWith(t *testing.T, flags map[string][]string) config.Config {
	t.Helper()
	cfg, err := config.Load(config.Sources{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err = cfg.Complete(func() (string, error) { return "one", nil }, func() (netip.Addr, error) { return netip.MustParseAddr("192.0.2.7"), nil })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestArgumentsThatAComponentRefuses: the server ended with them when the component's turn came, minutes later.
func TestArgumentsThatAComponentRefuses(t *testing.T) {
	if err := checkComponents(settingsWith(t, nil)); err != nil {
		t.Fatalf("without arguments: %v", err)
	}
	const gate = featuregate.Feature("MutatingAdmissionPolicy")
	before := utilfeature.DefaultFeatureGate.Enabled(gate)
	for _, tt := range []struct {
		component, pair string
		want            string // "" when it is taken
		do              string
	}{
		{"kube-apiserver", "event-ttl=2h", "", ""},
		{"kube-apiserver", "--request-timeout=2m", "", ""},
		{"kube-apiserver", "feature-gates=MutatingAdmissionPolicy=false", "", ""},
		{"kube-apiserver", "event-tll=2h", `check kube-apiserver-arg "event-tll=2h": there is no flag --event-tll`, "did you mean --event-ttl?"},
		{"kube-apiserver", "replicas-of-mine=2", "there is no flag --replicas-of-mine", "kube-apiserver/ lists the flags"},
		{"kube-apiserver", "event-ttl=soon", `check kube-apiserver-arg "event-ttl=soon": time: invalid duration "soon"`, "give --event-ttl a value of type duration"},
		{"kube-apiserver", "feature-gates=NoSuchGate=true", "unrecognized feature gate: NoSuchGate", "correct what --kube-apiserver-arg gives"},
		{"kube-apiserver", "feature-gates=MutatingAdmissionPolicy=maybe", "invalid value of MutatingAdmissionPolicy", ""},
		{"kube-apiserver", "authorization-mode=Everybody", `authorization-mode "Everybody" is not a valid mode`, "correct what --kube-apiserver-arg gives"},
		{"kube-apiserver", "enable-admission-plugins=NoSuchPlugin", `"NoSuchPlugin" is unknown`, ""},
		{"kube-apiserver", "goaway-chance=1", "--goaway-chance can not be", ""},
		// What documents name.
		{"kube-apiserver", "audit-log-maxage=60", "", ""},
		{"kube-apiserver", "audit-webhook-config-file=/etc/audit.kubeconfig", "", ""},
		{"kube-apiserver", "service-account-max-token-expiration=8760h", "", ""},
		{"kube-apiserver", "service-account-extend-token-expiration=true", "", ""},
		{"kube-apiserver", "admission-control-config-file=/etc/admission.yaml", "", ""},
		{"kubelet", "maximum-dead-containers=10", "", ""},
		{"kubelet", "image-gc-high-threshold=90", "", ""},
		{"kubelet", "kube-reserved=memory=1Gi", "", ""},
		{"kubelet", "allowed-unsafe-sysctls=kernel.shm*", "", ""},
		{"kube-controller-manager", "node-monitor-period=10s", "", ""},
		{"kube-controller-manager", "node-monitor-periods=10s", "there is no flag --node-monitor-periods", "did you mean --node-monitor-period?"},
		{"kube-controller-manager", "concurrent-deployment-syncs=many", `kube-controller-manager-arg "concurrent-deployment-syncs=many": strconv.ParseInt`, "give --concurrent-deployment-syncs a value of type int32"},
		{"kube-controller-manager", "controllers=no-such-controller", `"no-such-controller" is not in the list of known controllers`, "correct what --kube-controller-manager-arg gives"},
		{"kube-controller-manager", "feature-gates=NoSuchGate=true", "unrecognized feature gate: NoSuchGate", ""},
		{"kube-scheduler", "pod-max-in-unschedulable-pods-duration=1m", "", ""},
		{"kube-scheduler", "leader-elects=true", "there is no flag --leader-elects", "did you mean --leader-elect?"},
		{"kube-scheduler", "profiling=perhaps", `kube-scheduler-arg "profiling=perhaps": strconv.ParseBool`, "give --profiling a value of type bool"},
		{"kube-scheduler", "feature-gates=NoSuchGate=true", "unrecognized feature gate: NoSuchGate", ""},
		{"kube-scheduler", "secure-port=70000", "--secure-port 70000 must be between", "correct what --kube-scheduler-arg gives"},
		{"kubelet", "max-pods=20", "", ""},
		{"kubelet", "feature-gates=EnvFiles=false", "", ""},
		{"kubelet", "max-pod=20", `check kubelet-arg "max-pod=20": there is no flag --max-pod`, "did you mean --max-pods?"},
		{"kubelet", "max-pods=many", `check kubelet-arg "max-pods=many": strconv.ParseInt`, "give --max-pods a value of type int32"},
		{"kubelet", "image-gc-high-threshold=101", "must be between 0 and 100", "correct what --kubelet-arg gives"},
		{"kubelet", "feature-gates=NoSuchGate=true", "unrecognized feature gate: NoSuchGate", "correct what --kubelet-arg gives"},
		{"kube-proxy", "v=2", "", ""},
		{"kube-proxy", "feature-gates=NoSuchGate=true", "unrecognized feature gate: NoSuchGate", "correct what --kube-proxy-arg gives"},
		{"kube-proxy", "masquerade-al=true", "there is no flag --masquerade-al", "did you mean --masquerade-all?"},
		{"kube-proxy", "oom-score-adj=much", `check kube-proxy-arg "oom-score-adj=much": strconv.ParseInt`, "give --oom-score-adj a value of type int32"},
		{"kube-proxy", "oom-score-adj=2000", "must be within the range [-1000, 1000]", "correct what --kube-proxy-arg gives"},
		{"kube-proxy", "proxy-mode=carrier-pigeon", "carrier-pigeon", ""},
	} {
		t.Run(tt.component+" "+tt.pair, func(t *testing.T) {
			err := checkComponents(settingsWith(t, map[string][]string{tt.component + "-arg": {tt.pair}}))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error = %v, want %q in it", err, tt.want)
			case tt.do != "" && !slices.ContainsFunc(hint.Of(err), func(do string) bool { return strings.Contains(do, tt.do) }):
				t.Errorf("hints = %q, want %q among them", hint.Of(err), tt.do)
			}
		})
	}
	if after := utilfeature.DefaultFeatureGate.Enabled(gate); after != before {
		t.Errorf("the process's feature gate %s is %t after the checks, was %t", gate, after, before)
	}
	t.Run("a part that is left out", func(t *testing.T) {
		if err := checkComponents(settingsWith(t, map[string][]string{"kube-proxy-arg": {"nonsense=1"}, "disable": {"proxy"}})); err != nil {
			t.Errorf("arguments of kube-proxy, which does not run, are refused: %v", err)
		}
	})
	t.Run("all faults at once", func(t *testing.T) {
		err := checkComponents(settingsWith(t, map[string][]string{"kube-proxy-arg": {"aaa=1", "bbb=1"}, "kubelet-arg": {"ccc=1"}, "kube-scheduler-arg": {"ddd=1"}}))
		for _, name := range []string{"aaa", "bbb", "ccc", "ddd"} {
			if err == nil || !strings.Contains(err.Error(), "there is no flag --"+name) {
				t.Errorf("--%s is not reported: %v", name, err)
			}
		}
	})
}
