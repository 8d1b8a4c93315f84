package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// The ConfigMap with the annotations that every Pod has by default, and its keys.
const (
	GlobalNamespace = metav1.NamespaceSystem
	GlobalName      = "eks-config"
	GlobalKey       = "pod.annotations"
	overflowKey     = "AUTO_SCALE_EKS" // whether Pods may overflow onto super nodes
)

// Bounds of the ConfigMap's annotations and of the text about their faults. A Pod has 256 KiB of annotations at most.
const (
	maxGlobal = 64 << 10 // bytes
	maxFaults = 2000     // bytes
)

// ParseGlobal reads the annotations for every Pod: a YAML map of texts, in a string. No ConfigMap or no such key is no
// annotations. The error names every fault with the ConfigMap, its key and the line within it.
func ParseGlobal(cm *corev1.ConfigMap) (map[string]string, error) {
	if cm == nil {
		return nil, nil
	}
	global, err := parseGlobal(cm.Data[GlobalKey])
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s/%s, key %s: %w", GlobalNamespace, GlobalName, GlobalKey, err)
	}
	return global, nil
}

func parseGlobal(text string) (map[string]string, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not UTF-8")
	}
	if len(text) > maxGlobal {
		return nil, fmt.Errorf("%d bytes: want %d at most, every Pod has them", len(text), maxGlobal)
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r) }); at >= 0 {
		return nil, fmt.Errorf("line %d: a control character", 1+strings.Count(text[:at], "\n"))
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		fault := strings.TrimPrefix(err.Error(), "yaml: ")
		if !strings.HasPrefix(fault, "line ") {
			fault = "line 1: " + fault // the parser leaves the first line unsaid
		}
		return nil, errors.New(fault)
	}
	if len(doc.Content) == 0 {
		return nil, nil // empty, or comments only
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		if top.Tag == "!!null" {
			return nil, nil
		}
		return nil, fmt.Errorf("line %d: want lines of the form key: \"value\"", top.Line)
	}
	global, lines := map[string]string{}, map[string]int{}
	var errs []error
	for i := 0; i+1 < len(top.Content) && len(errs) < maxDenials; i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		switch line, twice := lines[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Tag != "!!str":
			errs = append(errs, fmt.Errorf("line %d: want the name of an annotation in place of %s", key.Line, quote(key.Value)))
			continue
		case len(validation.IsQualifiedName(strings.ToLower(key.Value))) > 0:
			errs = append(errs, fmt.Errorf("line %d: %s cannot be the name of an annotation", key.Line, quote(key.Value)))
			continue
		case twice:
			errs = append(errs, fmt.Errorf("line %d: %s stands on line %d already", key.Line, shown(key.Value), line))
			continue
		// true and 2 without quotes are taken as they are written: they can mean nothing else.
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null" || value.Tag == "!!binary":
			errs = append(errs, fmt.Errorf("line %d: %s: want a text; put it in quotes, or below a | if it has lines", value.Line, shown(key.Value)))
		}
		global[key.Value], lines[key.Value] = value.Value, key.Line
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return global, nil
}

// Merge gives a Pod the annotations of its node and of all Pods that it has not itself, the node's first. Only those with
// the prefixes of TKE Serverless are taken, and none that belongs elsewhere than on a Pod. It tells what it has taken, sorted.
func Merge(pod, node, global map[string]string) (merged map[string]string, taken []string) {
	merged = maps.Clone(pod)
	for _, from := range []map[string]string{node, global} {
		for key, value := range from {
			if !forPods(key) {
				continue
			}
			if _, have := merged[key]; have {
				continue
			}
			if merged == nil {
				merged = map[string]string{}
			}
			merged[key] = value
			taken = append(taken, key)
		}
	}
	slices.Sort(taken)
	return merged, taken
}

// forPods tells whether a key can be given to a Pod that has not asked for it.
func forPods(key string) bool {
	k := lookup(key)
	return ofEKS(key) && (k == nil || k.On == OnPod)
}

// GlobalConfig reports on a new or changed ConfigMap, if it is the one of the annotations for every Pod.
func GlobalConfig(cm *corev1.ConfigMap) Findings {
	if cm.Namespace != GlobalNamespace || cm.Name != GlobalName {
		return Findings{}
	}
	var r report
	data := field.NewPath("data")
	r.globalKeys(data, cm)
	at := data.Key(GlobalKey)
	global, err := parseGlobal(cm.Data[GlobalKey])
	if err != nil {
		r.deny(field.Invalid(at, field.OmitValueType{}, oneLine(err)))
		return r.findings(data)
	}
	r.annotations(at, global, OnPod)
	if _, err := podsize.ParseWish(global); err != nil {
		r.deny(field.Invalid(at, field.OmitValueType{}, oneLine(err)))
	}
	for _, key := range slices.Sorted(maps.Keys(global)) {
		if !ofEKS(key) && !concerns(key) {
			r.warn(at.Key(shown(key)), "is not given to Pods: only keys of TKE Serverless are")
		}
	}
	return r.findings(data)
}

// oneLine is an error's text, which may quote a whole ConfigMap, on one line and within bounds.
func oneLine(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > maxFaults {
		text = strings.ToValidUTF8(text[:maxFaults], "") + "..."
	}
	return text
}

// globalKeys warns of keys of the ConfigMap that nobody reads.
func (r *report) globalKeys(at *field.Path, cm *corev1.ConfigMap) {
	for _, key := range slices.Sorted(maps.Keys(cm.Data)) {
		if key == GlobalKey || key == overflowKey {
			continue
		}
		text := "is not read"
		if r.roomToWarn() && len(key) <= maxKey {
			if near := hint.Nearest(key, []string{GlobalKey, overflowKey}); near != "" {
				text += "; did you mean " + near + "?"
			}
		}
		r.warn(at.Key(shown(key)), text)
	}
	for _, key := range slices.Sorted(maps.Keys(cm.BinaryData)) {
		r.warn(field.NewPath("binaryData").Key(shown(key)), "is not read")
	}
}
