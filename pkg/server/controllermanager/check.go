package controllermanager

import (
	"fmt"

	kcmapp "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

// Check refuses what kube-controller-manager would refuse of c's arguments when it starts, and changes nothing.
func Check(c Config) error {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return fmt.Errorf("make options of %s: %w", component, err)
	}
	globals, err := kubeflags.Globals()
	if err != nil {
		return err
	}
	opts.ComponentGlobalsRegistry = globals
	known, off, aliases := kcmapp.KnownControllers(), kcmapp.ControllersDisabledByDefault(), kcmapp.ControllerAliases()
	extra := c.ExtraArgs
	c.ExtraArgs = nil
	return kubeflags.Trial{
		Component: component, Sets: opts.Flags(known, off, aliases), Globals: globals, Ours: Args(c), Extra: extra,
		Validate: func() []error { return []error{opts.Validate(known, off, aliases)} },
	}.Run()
}
