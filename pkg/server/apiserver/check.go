package apiserver

import (
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
)

// Check refuses what kube-apiserver would refuse of c's arguments when it starts, and changes nothing.
func Check(c Config) error {
	opts := options.NewServerRunOptions()
	if _, err := admission.Install(opts.Admission.GenericAdmission, c.Admission); err != nil {
		return err
	}
	bounds.Install(opts.Admission.GenericAdmission, c.Room)
	globals, err := kubeflags.Globals()
	if err != nil {
		return err
	}
	opts.GenericServerRunOptions.ComponentGlobalsRegistry = globals
	extra := c.ExtraArgs
	c.ExtraArgs = nil
	opts.ServiceAccountIssuer = issuerToBe{} // made of files that are not there yet
	return kubeflags.Trial{Component: component, Sets: opts.Flags(), Globals: globals, Ours: Args(c), Extra: extra, Validate: opts.Options.Validate}.Run()
}

type issuerToBe struct{ serviceaccount.TokenGenerator }
