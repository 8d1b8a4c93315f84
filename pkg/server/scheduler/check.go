package scheduler

import (
	"slices"

	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

// Check refuses what kube-scheduler would refuse of c's arguments when it starts, and changes nothing. What its own configuration says is
// ours, and is not looked at.
func Check(c Config) error {
	globals, err := kubeflags.Globals()
	if err != nil {
		return err
	}
	opts := options.NewOptionsWithComponentGlobalsRegistry(globals)
	extra := c.ExtraArgs
	c.ExtraArgs = nil
	return kubeflags.Trial{
		Component: component, Sets: *opts.Flags, Globals: globals, Ours: Args(c), Extra: extra,
		Validate: func() []error {
			return slices.Concat(globals.Validate(), opts.SecureServing.Validate(), opts.Authentication.Validate(), opts.Authorization.Validate(), opts.Metrics.Validate())
		},
	}.Run()
}
