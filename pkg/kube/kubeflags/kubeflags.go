// Package kubeflags sets the options of a Kubernetes component from arguments, as its command would do.
// The component packages below pkg/server and pkg/worker use it; the commands themselves must not be run, for each of them
// installs the process's signal handler.
package kubeflags

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Parse reads args into the options that sets belong to.
func Parse(component string, sets cliflag.NamedFlagSets, args []string) error {
	all := pflag.NewFlagSet(component, pflag.ContinueOnError)
	for _, name := range sets.Order {
		all.AddFlagSet(sets.FlagSets[name])
	}
	if err := all.Parse(args); err != nil {
		return &hint.Error{Op: "set options of", On: component, Err: err, Do: fmt.Sprintf("correct what --%s-arg gives", component)}
	}
	return nil
}

// Extra turns an operator's "name=value" into arguments; dashes in front are allowed.
func Extra(pairs []string) []string {
	args := make([]string, len(pairs))
	for i, pair := range pairs {
		args[i] = "--" + strings.TrimLeft(pair, "-")
	}
	return args
}
