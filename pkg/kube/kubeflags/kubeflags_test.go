package kubeflags_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	cliflag "k8s.io/component-base/cli/flag"

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
