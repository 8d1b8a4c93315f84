package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// config is the ConfigMap of the annotations for every Pod.
func config(annotations string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "eks-config"}, Data: map[string]string{"pod.annotations": annotations}}
}

func TestParseGlobal(t *testing.T) {
	// As the cloud's pages have it.
	const page = `eks.tke.cloud.tencent.com/resolv-conf: |
  nameserver 4.4.4.4
  nameserver 8.8.8.8
eks.tke.cloud.tencent.com/host-sysctls: '[{"name": "net.core.rmem_max","value": "26214400"}]'
eks.tke.cloud.tencent.com/retain-ip: true
eks.tke.cloud.tencent.com/gpu-count: 010
`
	got, err := ParseGlobal(config(page))
	want := map[string]string{
		api.EKS + "resolv-conf":  "nameserver 4.4.4.4\nnameserver 8.8.8.8\n",
		api.EKS + "host-sysctls": `[{"name": "net.core.rmem_max","value": "26214400"}]`,
		api.EKS + "retain-ip":    "true",
		api.GPUCount:             "010",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("ParseGlobal: %v, (-want +got):\n%s", err, diff)
	}
	for _, none := range []*corev1.ConfigMap{nil, {}, config(""), config("# later\n"), config("null"), config("---\n...\n")} {
		if got, err := ParseGlobal(none); err != nil || len(got) > 0 {
			t.Errorf("ParseGlobal(%+v) = %v, %v; want nothing", none, got, err)
		}
	}
}

func TestParseGlobalNamesKeyAndLine(t *testing.T) {
	const in = "read ConfigMap kube-system/eks-config, key pod.annotations: "
	for _, tt := range []struct{ name, text, want string }{
		{"no YAML", "a: b: c", "line 1: mapping values are not allowed in this context"},
		{"a tab", "a: b\n\tc: d", "line 2: found a tab character that violates indentation"},
		{"a list", "\n- a", `line 2: want lines of the form key: "value"`},
		{"a text", "a=b", `line 1: want lines of the form key: "value"`},
		{"a map in the map", "a: b\nc:\n  d: e", "line 3: c: want a text; put it in quotes, or below a | if it has lines"},
		{"a list in the map", "a: [b]", "line 1: a: want a text; put it in quotes, or below a | if it has lines"},
		{"no value", "a:", "line 1: a: want a text; put it in quotes, or below a | if it has lines"},
		{"twice", "a: b\nc: d\na: e", "line 3: a stands on line 1 already"},
		{"a number for a name", "1: a", `line 1: want the name of an annotation in place of "1"`},
		{"a map for a name", "? {a: b}\n: c", `line 1: want the name of an annotation in place of ""`},
		{"a name that cannot be", "a b: c", `line 1: "a b" cannot be the name of an annotation`},
		{"two faults", "a: []\n2: b", "line 1: a: want a text; put it in quotes, or below a | if it has lines\nline 2: want the name of an annotation in place of \"2\""},
		{"an anchor", "a: &x b\nc: *x", "line 2: c: want a text; put it in quotes, or below a | if it has lines"},
		{"a control character", "a: b\nc: \x01", "line 2: a control character"},
		{"not UTF-8", "a: \xff", "not UTF-8"},
		{"too long", "a: " + strings.Repeat("b", 65534), "65537 bytes: want 65536 at most, every Pod has them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseGlobal(config(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), in+tt.want) || got != nil {
				t.Errorf("ParseGlobal = %v, %v; want %s", got, err, in+tt.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	pod := map[string]string{api.CPU: "pod", "note": "mine"}
	node := map[string]string{api.CPU: "node", api.SpotPod: "node", api.EKS + "subnet-id": "subnet-1", "node.alpha.kubernetes.io/ttl": "0", api.EKS + "resolv-conf": "node"}
	global := map[string]string{api.CPU: "global", api.EKS + "resolv-conf": "global", internalEKS + "pod-eth-idx": "1", tke + "pod-type": "eklet",
		api.EKS + "zzzzzz": "later", "example.org/x": "y", dsInjection: "true"}
	merged, taken := Merge(pod, node, global)
	want := map[string]string{api.CPU: "pod", "note": "mine", api.SpotPod: "node", api.EKS + "resolv-conf": "node", internalEKS + "pod-eth-idx": "1", api.EKS + "zzzzzz": "later"}
	if diff := cmp.Diff(want, merged); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{api.EKS + "resolv-conf", api.SpotPod, api.EKS + "zzzzzz", internalEKS + "pod-eth-idx"}, taken); diff != "" {
		t.Errorf("taken (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{api.CPU: "pod", "note": "mine"}, pod); diff != "" {
		t.Errorf("the Pod's own annotations are changed (-want +got):\n%s", diff)
	}
	if merged, taken := Merge(nil, nil, map[string]string{api.CPU: "1"}); merged[api.CPU] != "1" || len(taken) != 1 {
		t.Errorf("Merge(nil, nil, global) = %v, %v", merged, taken)
	}
	if merged, taken := Merge(nil, nil, nil); len(merged) > 0 || taken != nil {
		t.Errorf("Merge(nil, nil, nil) = %v, %v", merged, taken)
	}
}

func TestGlobalConfig(t *testing.T) {
	const at = "data[pod.annotations]"
	for _, tt := range []struct {
		name              string
		cm                *corev1.ConfigMap
		denials, warnings []string
	}{
		{name: "another ConfigMap", cm: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "eks-config"}, Data: map[string]string{GlobalKey: "- x"}}},
		{name: "fine", cm: config(api.SpotPod + ": \"true\"\n")},
		{name: "not YAML", cm: config("a: b\nc"), denials: []string{at + ": Invalid value: line 2: could not find expected ':'"}},
		{name: "two faults on one line of text", cm: config("a: []\n2: b"), denials: []string{at +
			`: Invalid value: line 1: a: want a text; put it in quotes, or below a | if it has lines; line 2: want the name of an annotation in place of "2"`}},
		{name: "a value that would refuse every Pod", cm: config(api.SpotPod + ": 'yes'\n" + api.CPU + ": 4\n"), denials: []string{
			at + `[eks.tke.cloud.tencent.com/spot-pod]: Invalid value: "yes": want "true" or "false"`,
			at + `: Invalid value: annotation eks.tke.cloud.tencent.com/cpu: "4": a spec is named by both or by none; add eks.tke.cloud.tencent.com/mem, or remove this one`}},
		{name: "a refused key", cm: config(internalEKS + "init-script: reboot"), denials: []string{at + strings.TrimPrefix(sayRefused, "metadata.annotations")}},
		{name: "keys without effect", cm: config(api.EKS + "pod-ip: 10.0.0.1\n" + api.EKS + "memory: 2Gi\nexample.org/x: y\n"), warnings: []string{
			at + "[eks.tke.cloud.tencent.com/memory]: no such key, it has no effect; did you mean eks.tke.cloud.tencent.com/mem?",
			at + "[eks.tke.cloud.tencent.com/pod-ip]: not honoured yet: the Pod gets any free address of its host's range",
			at + "[example.org/x]: is not given to Pods: only keys of TKE Serverless are"}},
		{name: "keys of the ConfigMap", cm: &corev1.ConfigMap{ObjectMeta: config("").ObjectMeta, BinaryData: map[string][]byte{"pod.annotations": {1}},
			Data: map[string]string{"pod.annotation": "x", "AUTO_SCALE_EKS": "false", "other": "y"}},
			warnings: []string{"data[other]: is not read", "data[pod.annotation]: is not read; did you mean pod.annotations?", "binaryData[pod.annotations]: is not read"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := GlobalConfig(tt.cm)
			if diff := cmp.Diff(tt.denials, denials(got)); diff != "" {
				t.Errorf("denials (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, got.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostileGlobalConfig(t *testing.T) {
	faults := strings.Repeat("- ", 30_000)
	var keys, wrong strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&keys, "%sk%d: v\n", api.EKS, i)
		fmt.Fprintf(&wrong, "k%d: []\n", i)
	}
	for name, text := range map[string]string{
		"deep": faults, "many keys": keys.String(), "many faults": wrong.String(), "long value": api.CPU + ": " + strings.Repeat("9", 60_000),
		"aliases": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n", "an endless alias": "a: &a [*a]", "flow": strings.Repeat("{a: ", 9000),
	} {
		t.Run(name, func(t *testing.T) { wellFormed(t, GlobalConfig(config(text))) })
	}
}
