// Package kubeflags sets the options of a Kubernetes component from arguments, as its command would do, and checks an operator's before
// anything is started. The component packages below pkg/server and pkg/worker use it; the commands themselves must not be run, for each of
// them installs the process's signal handler.
package kubeflags

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	basecompatibility "k8s.io/component-base/compatibility"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Flat is all sets in one.
func Flat(component string, sets cliflag.NamedFlagSets) *pflag.FlagSet {
	all := pflag.NewFlagSet(component, pflag.ContinueOnError)
	for _, name := range sets.Order {
		all.AddFlagSet(sets.FlagSets[name])
	}
	return all
}

// Parse reads args into the options that sets belong to.
func Parse(component string, sets cliflag.NamedFlagSets, args []string) error {
	if err := Flat(component, sets).Parse(args); err != nil {
		return &hint.Error{Op: "set options of", On: component, Err: err, Do: remedy(component)}
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

// Set sets an operator's pairs one by one, and reports each that the component would refuse.
func Set(component string, flags *pflag.FlagSet, pairs []string) error {
	var errs []error
	for _, pair := range pairs {
		if err := set(flags, pair); err != nil {
			errs = append(errs, &hint.Error{Op: "check " + component + "-arg", On: fmt.Sprintf("%q", pair), Err: err, Do: remedyOf(component, flags, pair)})
		}
	}
	return errors.Join(errs...)
}

func set(flags *pflag.FlagSet, pair string) error {
	if name := nameOf(pair); flags.Lookup(name) == nil {
		return fmt.Errorf("there is no flag --%s", name)
	}
	flags.SetOutput(io.Discard) // who is warned of old flags is the one that they are set for
	err := flags.Parse(Extra([]string{pair}))
	var bad *pflag.InvalidValueError
	if errors.As(err, &bad) {
		return bad.Unwrap()
	}
	return err
}

func nameOf(pair string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(pair, "-"), "=")
	return name
}

func remedyOf(component string, flags *pflag.FlagSet, pair string) string {
	name := nameOf(pair)
	if f := flags.Lookup(name); f != nil {
		return fmt.Sprintf("give --%s a value of type %s", name, f.Value.Type())
	}
	var all []string
	flags.VisitAll(func(f *pflag.Flag) { all = append(all, f.Name) })
	if near := hint.Nearest(name, all); near != "" {
		return fmt.Sprintf("did you mean --%s?", near)
	}
	return "https://kubernetes.io/docs/reference/command-line-tools-reference/" + component + "/ lists the flags of " + component
}

func remedy(component string) string { return fmt.Sprintf("correct what --%s-arg gives", component) }

// Refused is what a component says of its options as a whole; nil when it says nothing.
func Refused(component string, faults ...error) error {
	if err := errors.Join(faults...); err != nil {
		return &hint.Error{Op: "check options of", On: component, Err: err, Do: remedy(component)}
	}
	return nil
}

// Globals are feature gates and versions as those of the process are now. What is set in them changes nothing else.
func Globals() (basecompatibility.ComponentGlobalsRegistry, error) {
	r := basecompatibility.NewComponentGlobalsRegistry()
	if err := r.Register(basecompatibility.DefaultKubeComponent, compatibility.DefaultBuildEffectiveVersion(), utilfeature.DefaultMutableFeatureGate.DeepCopy()); err != nil {
		return nil, fmt.Errorf("copy feature gates: %w", err)
	}
	return r, nil
}

// Trial is what a component does with its arguments before it starts, without effect.
type Trial struct {
	Component string
	Sets      cliflag.NamedFlagSets
	Globals   basecompatibility.ComponentGlobalsRegistry // those that Sets belongs to
	Ours      []string                                   // arguments
	Extra     []string                                   // an operator's pairs
	Validate  func() []error                             // what it says of its options as a whole
}

// Run reports what the component would refuse.
func (t Trial) Run() error {
	flags := Flat(t.Component, t.Sets)
	if err := flags.Parse(t.Ours); err != nil {
		return Refused(t.Component, err)
	}
	if err := Set(t.Component, flags, t.Extra); err != nil {
		return err
	}
	if err := t.Globals.Set(); err != nil || setsGates(t.Extra) {
		return Refused(t.Component, err)
	}
	return Refused(t.Component, t.Validate()...)
}

// setsGates tells whether the pairs change feature gates or versions. What is valid then may depend on those of the process, which
// are set when the component starts.
func setsGates(pairs []string) bool {
	return slices.ContainsFunc(pairs, func(pair string) bool {
		return slices.Contains([]string{"feature-gates", "emulated-version", "min-compatibility-version"}, nameOf(pair))
	})
}
