package kubeflags_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

func TestParseReadsEverySet(t *testing.T) {
	var sets cliflag.NamedFlagSets
	port := sets.FlagSet("serving").Int("port", 1, "")
	name := sets.FlagSet("misc").String("name", "", "")
	if err := kubeflags.Parse("part", sets, append([]string{"--port=2"}, kubeflags.Extra([]string{"name=x", "--port=3"})...)); err != nil {
		t.Fatal(err)
	}
	if *port != 3 || *name != "x" {
		t.Errorf("port %d, name %q; want the operator's 3 and x", *port, *name)
	}
	err := kubeflags.Parse("part", sets, []string{"--nonsense=1"})
	if diff := cmp.Diff([]string{"correct what --part-arg gives"}, hint.Of(err)); diff != "" {
		t.Errorf("hint for %v (-want +got):\n%s", err, diff)
	}
}

// TestSetNamesEachPair: those that are refused are told with what to do, the others are set.
func TestSetNamesEachPair(t *testing.T) {
	flags := pflag.NewFlagSet("part", pflag.ContinueOnError)
	port := flags.Int("port", 1, "")
	err := kubeflags.Set("part", flags, []string{"prot=2", "port=many", "--port=3", "unlike-any=1"})
	if *port != 3 {
		t.Errorf("port %d, want 3", *port)
	}
	for _, want := range []string{`check part-arg "prot=2": there is no flag --prot`, `check part-arg "port=many": strconv.ParseInt`, `check part-arg "unlike-any=1"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
	want := []string{"did you mean --port?", "give --port a value of type int", "https://kubernetes.io/docs/reference/command-line-tools-reference/part/ lists the flags of part"}
	if diff := cmp.Diff(want, hint.Of(err)); diff != "" {
		t.Errorf("hints (-want +got):\n%s", diff)
	}
}

// TestGlobalsAreACopy: what is set in them is not set for the process.
func TestGlobalsAreACopy(t *testing.T) {
	globals, err := kubeflags.Globals()
	if err != nil {
		t.Fatal(err)
	}
	gate := featuregate.Feature("AllAlpha") // every gate has it
	before := utilfeature.DefaultFeatureGate.Enabled(gate)
	flags := pflag.NewFlagSet("part", pflag.ContinueOnError)
	globals.AddFlags(flags)
	if err := kubeflags.Set("part", flags, []string{fmt.Sprintf("feature-gates=%s=%t", gate, !before)}); err != nil {
		t.Fatal(err)
	}
	if err := globals.Set(); err != nil {
		t.Fatal(err)
	}
	if globals.FeatureGateFor(compatibility.DefaultKubeComponent).Enabled(gate) == before {
		t.Error("the gate is not set in the copy")
	}
	if utilfeature.DefaultFeatureGate.Enabled(gate) != before {
		t.Error("the gate is set for the process")
	}
}
