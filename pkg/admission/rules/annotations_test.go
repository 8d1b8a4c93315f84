package rules

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// theCloudsKeys are the annotations of the cloud's pages, written down apart from the table.
const theCloudsKeys = `cpu mem cpu-type gpu-type gpu-count root-cbs-size root-cbs-type spec-auto-upgrade spot-pod spread-placement-group-id resource-tag
retain-ip retain-ip-hours pod-ip eip-attributes eip-claim-delete-policy eip-id-list eip-injection security-group-id role-name
registry-insecure-skip-verify registry-http-endpoint cbs-reuse-key not-reuse-cbs use-image-cache image-cache-disk-type image-cache-disk-size
image-cache-disk-retain-minute host-sysctls host-modprobe host-timezone recreate-node-lost-pod heartbeat-lost-period image-gc-high-threshold
image-gc-low-threshold image-gc-period container-gc-threshold must-keep-last-container pod-eviction-threshold metrics-port cri-stats-interval
custom-metrics-url internal.pod-eth-idx resolv-conf cluster-ip-switch duration-to-wait-service-rules ipvs-scheduler ipvs-sh-port ipvs-sync-period
ipvs-min-sync-period ipvs-udp-timeout ipvs-tcp-timeout reserve-sandbox-duration reserve-succeeded-sandbox reserve-task-shorter-than
log-key-as-message filebeat-metadata-format internal.tail-buffer-max-size internal.tail-buffer-chunk-size parser-name volume-name-for-parser
ds-injection ds-inject-by-label ds-inject-rate eklet-version tke.eip-public-ip tke.pod-type subnet-id available-ip-count internal.init-script`

func TestTableHasEveryKeyOfTheCloudOnce(t *testing.T) {
	var want, got []string
	for _, name := range strings.Fields(theCloudsKeys) {
		switch area, rest, _ := strings.Cut(name, "."); area {
		case "internal":
			name = "internal.eks.tke.cloud.tencent.com/" + rest
		case "tke":
			name = "tke.cloud.tencent.com/" + rest
		default:
			name = "eks.tke.cloud.tencent.com/" + name
		}
		want = append(want, name)
	}
	names := map[string]string{}
	for _, k := range table {
		got = append(got, k.Key)
		for _, name := range append([]string{k.name()}, k.Also...) {
			if names[name] != "" {
				t.Errorf("%q stands for both %s and %s", name, names[name], k.Key)
			}
			names[name] = k.Key
		}
		if k.Here == "" || k.Test == "" || k.State.String() == "unknown" {
			t.Errorf("%s: incomplete: %+v", k.Key, k)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := State(9).String(); got != "unknown" {
		t.Errorf("State(9) is %q", got)
	}
}

// finds is what is found in a Pod with one annotation.
func finds(key, value string) Findings { return Pod(podWith(annotated(key, value)), Settings{}, false) }

func TestKeysNotYetHonouredAreWarnedOf(t *testing.T) {
	for _, k := range table {
		if k.State != NotYet {
			continue
		}
		got := finds(k.Key, "anything")
		want := "metadata.annotations[" + k.Key + "]: not honoured yet: " + strings.ReplaceAll(k.Here, "`", "")
		if len(got.Denials) > 0 || len(got.Warnings) != 1 || got.Warnings[0] != want {
			t.Errorf("%s: %v %q, want the warning %q", k.Key, got.Denials, got.Warnings, want)
		}
		if n := utf8.RuneCountInString(want); n > 256 {
			t.Errorf("%s: its warning has %d characters; the apiserver cuts at 256", k.Key, n)
		}
		if k.Anyway == "" {
			continue
		}
		if got := finds(k.Key, k.Anyway); len(got.Denials) > 0 || len(got.Warnings) > 0 {
			t.Errorf("%s: %q asks for what happens anyway, and is answered %v %q", k.Key, k.Anyway, got.Denials, got.Warnings)
		}
	}
}

func TestImpliedKeysAreQuiet(t *testing.T) {
	seen := 0
	for _, k := range table {
		if k.State != Implied {
			continue
		}
		seen++
		if got := finds(k.Key, "anything"); len(got.Denials) > 0 || len(got.Warnings) > 0 {
			t.Errorf("%s: %v %q, want nothing", k.Key, got.Denials, got.Warnings)
		}
	}
	if seen == 0 {
		t.Error("no key is implied")
	}
}

func TestRefusedKeys(t *testing.T) {
	for key, want := range map[string]string{internalEKS + "init-script": sayRefused, tke + "eip-public-ip": sayEIP} {
		got := finds(key, "x")
		if diff := cmp.Diff([]string{want}, denials(got)); diff != "" || len(got.Warnings) > 0 {
			t.Errorf("%s: warnings %q, denials (-want +got):\n%s", key, got.Warnings, diff)
		}
		if lookup(key).State != Refused {
			t.Errorf("%s is %s in the table", key, lookup(key).State)
		}
	}
}

func TestHonouredKeysHaveTheirForm(t *testing.T) {
	at := func(key string) string { return "metadata.annotations[" + api.EKS + key + "]: " }
	for _, tt := range []struct {
		key, value string
		want       []string
	}{
		{api.SpotPod, "true", nil},
		{api.SpotPod, "false", nil},
		{api.SpotPod, "True", []string{at("spot-pod") + `Invalid value: "True": want "true" or "false"`}},
		{api.SpotPod, "", []string{at("spot-pod") + `Invalid value: "": want "true" or "false"`}},
		{api.SpotPod, strings.Repeat("ab", 40), []string{at("spot-pod") + `Invalid value: "` + strings.Repeat("ab", 32) + `...": want "true" or "false"`}},
		{api.ResourceTag, `{"business":"A"}`, nil},
		{api.ResourceTag, `["business"]`, []string{at("resource-tag") + `Invalid value: "[\"business\"]": want a JSON object of strings, such as {"team":"web"}`}},
		{api.CPU, "sized elsewhere", nil},
	} {
		got := finds(tt.key, tt.value)
		if diff := cmp.Diff(tt.want, denials(got)); diff != "" || len(got.Warnings) > 0 {
			t.Errorf("%s=%.80q: warnings %q, denials (-want +got):\n%s", tt.key, tt.value, got.Warnings, diff)
		}
	}
}

func TestTags(t *testing.T) {
	many := func(n int) string {
		var pairs []string
		for i := range n {
			pairs = append(pairs, `"k`+strings.Repeat("x", i)+`":"v"`)
		}
		return "{" + strings.Join(pairs, ",") + "}"
	}
	const form = `want a JSON object of strings, such as {"team":"web"}`
	for _, tt := range []struct{ name, value, want string }{
		{"none", "{}", ""},
		{"two", ` {"team" : "web", "stage": ""} `, ""},
		{"fifty", many(50), ""},
		{"fifty-one", many(51), "want 50 names at most"},
		{"long names in characters, not bytes", `{"` + strings.Repeat("é", 127) + `":"` + strings.Repeat("é", 255) + `"}`, ""},
		{"a name too long", `{"` + strings.Repeat("n", 128) + `":""}`, `name "` + strings.Repeat("n", 64) + `...": want 1 to 127 characters`},
		{"no name", `{"":"v"}`, `name "": want 1 to 127 characters`},
		{"a value too long", `{"a":"` + strings.Repeat("v", 256) + `"}`, `value of "a": want 255 characters at most`},
		{"a number", `{"a":1}`, `the value of "a" is not a string; ` + form},
		{"nothing", `{"a":null}`, `the value of "a" is not a string; ` + form},
		{"an object within", `{"a":{"b":"c"}}`, `the value of "a" is not a string; ` + form},
		{"twice", `{"a":"1","a":"2"}`, `"a" stands there twice`},
		{"deep", `{"a":` + strings.Repeat("[", 100_000), `the value of "a" is not a string; ` + form},
		{"deep at once", strings.Repeat(`{"a":`, 50_000), `the value of "a" is not a string; ` + form},
		{"a list", `[]`, form},
		{"a string", `"a"`, form},
		{"null", `null`, form},
		{"empty", ``, form},
		{"cut off", `{"a":"b"`, form},
		{"cut off after a name", `{"a"`, form},
		{"more behind", `{"a":"b"}{}`, form},
		{"no comma", `{"a":"b" "c":"d"}`, form},
		{"not UTF-8", "{\"a\":\"\xff\"}", "not UTF-8"},
		{"huge", `{"a":"` + strings.Repeat("v", 256<<10) + `"}`, `value of "a": want 255 characters at most`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := tags(tt.value); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("tags(%.80q) = %q, want %q", tt.value, got, tt.want)
			}
		})
	}
}

func TestMisspelledKeys(t *testing.T) {
	for key, want := range map[string]string{
		api.EKS + "memory":                              api.Memory,
		api.EKS + "Mem":                                 api.Memory,
		api.EKS + "CPU":                                 api.CPU,
		api.EKS + "cpus":                                api.CPU,
		api.EKS + "cpu_type":                            api.CPUType,
		api.EKS + "gpu":                                 api.GPUCount,
		api.EKS + "gputype":                             api.GPUType,
		api.EKS + "spot":                                api.SpotPod,
		api.EKS + "spot-pods":                           api.SpotPod,
		api.EKS + "root_cbs_size":                       api.RootDiskSize,
		api.EKS + "root-disk-size":                      api.RootDiskSize,
		api.EKS + "static-ip":                           api.EKS + "retain-ip",
		api.EKS + "security-groups":                     api.EKS + "security-group-id",
		api.EKS + "ds-inject":                           dsInjection,
		api.EKS + "pod-eth-idx":                         internalEKS + "pod-eth-idx",
		internalEKS + "pod_eth_idx":                     internalEKS + "pod-eth-idx",
		internalEKS + "spot-pod":                        api.SpotPod,
		api.EKS + "pod-type":                            tke + "pod-type",
		"eks.tke.cloud.tencent/cpu":                     api.CPU,
		"eks.tke.cloud.tencent.com.cn/mem":              api.Memory,
		"eks.tke.cloud.tencent.com.cn/memory":           api.Memory,
		"eks.tke.cloud.tencnt.com/root-cbs-sze":         api.RootDiskSize,
		"EKS.tke.cloud.tencent.com/cpu":                 api.CPU,
		"eks.cloud.tencent.com/cpu":                     api.CPU,
		"tke.cloud.tencent.com/cpu":                     api.CPU,
		"internal.eks.tke.cloud.tencent.cn/pod-eth-idx": internalEKS + "pod-eth-idx",
		"spot-pod":                                      api.SpotPod,
		"cpu":                                           api.CPU,
		"Root_CBS_Size":                                 api.RootDiskSize,
		"eks.tke.cloud.tencent.com.cpu":                 api.CPU,
		"eks.tke.cloud.tencent.com_gpu-type":            api.GPUType,
	} {
		got := finds(key, "1")
		text := "metadata.annotations[" + key + "]: no such key, it has no effect; did you mean " + want + "?"
		if diff := cmp.Diff([]string{text}, got.Warnings); diff != "" || len(got.Denials) > 0 {
			t.Errorf("%s: denials %v, warnings (-want +got):\n%s", key, got.Denials, diff)
		}
	}
	for _, key := range []string{api.EKS + "zzzzzz", internalEKS + "x", api.EKS, "eks.tke.cloud.tencent.com.cn/zzzzzz"} {
		text := "metadata.annotations[" + key + "]: no such key, it has no effect; docs/annotations.md lists those that have one"
		if diff := cmp.Diff([]string{text}, finds(key, "1").Warnings); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", key, diff)
		}
	}
	for _, key := range []string{"memory", "eks.amazonaws.com/role-arn", "eks.amazonaws.com/memory", "tke.cloud.tencent.com/networks", "example.org/spot-pod", "ingress.cloud.tencent.com/x", ""} {
		if got := finds(key, "1"); len(got.Warnings) > 0 {
			t.Errorf("%s is somebody else's, and is warned of: %q", key, got.Warnings)
		}
	}
}

func TestKeysOfDaemonSetsOnPods(t *testing.T) {
	const want = "metadata.annotations[eks.tke.cloud.tencent.com/ds-injection]: has an effect in the template of a DaemonSet only"
	if diff := cmp.Diff([]string{want}, finds(dsInjection, "true").Warnings); diff != "" {
		t.Errorf("on a Pod (-want +got):\n%s", diff)
	}
	yes := true
	of := podWith(annotated(dsInjection, "true", dsInjectByLabel, "a:b"), func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "agent", Controller: &yes}}
	})
	if got := Pod(of, Settings{}, false); len(got.Warnings) > 0 || len(got.Denials) > 0 {
		t.Errorf("on a Pod of a DaemonSet: %v %q, want nothing", got.Denials, got.Warnings)
	}
}
