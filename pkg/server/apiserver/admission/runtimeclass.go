// Package admission holds what our apiserver does to objects on their way in, beside Kubernetes' own admission.
// pkg/server/apiserver installs it.
package admission

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/admission"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/podsize"
)

const (
	// PluginName is how --disable-admission-plugins knows it.
	PluginName = "DefaultRuntimeClass"
	// RuntimeClass is the class of Pods that name none.
	RuntimeClass = "kata"
)

// Config is what the plugins go by.
type Config struct {
	Catalog podsize.Catalog // what Pods can be
	Rules   rules.Settings  // what is let through
	// Native leaves a Pod's own figures as they are: its spec is what it is billed by, and quotas count what it asks for.
	Native bool
	// SpotGrace is the longest time that a spot Pod has to end in.
	SpotGrace time.Duration
	Cost      Cost // nil when prices are nobody's concern
}

// Install puts our plugins among the others: after LimitRanger, which says for Pods what they do not say themselves, and before
// those that build on what ours set. What it gives belongs into /readyz.
func Install(opts *genericoptions.AdmissionOptions, cfg Config) (*Readiness, error) {
	ready := &Readiness{}
	opts.Plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return &defaultRuntimeClass{Handler: admission.NewHandler(admission.Create)}, nil
	})
	opts.Plugins.Register(HostNamespacesName, func(io.Reader) (admission.Interface, error) {
		return &hostNamespaces{Handler: admission.NewHandler(admission.Create)}, nil
	})
	if err := cfg.Rules.Validate(); err != nil {
		return nil, fmt.Errorf("install admission plugin %s: %w", RulesName, err)
	}
	newSize := func(w *waiting) *size {
		return &size{waiting: w, catalog: cfg.Catalog, native: cfg.Native, grace: int64(cfg.SpotGrace / time.Second), tellers: []string{pki.UserEklet, pki.UserSpot}, cost: cfg.Cost,
			owners: owners{foreign: newForeign()}}
	}
	opts.Plugins.Register(SizeName, func(io.Reader) (admission.Interface, error) {
		return newSize(newWaiting(SizeName, ready, admission.Create, admission.Update)), nil
	})
	opts.Plugins.Register(RulesName, func(io.Reader) (admission.Interface, error) {
		w := newWaiting(RulesName, ready, admission.Create, admission.Update, admission.Connect)
		return &ruling{waiting: w, settings: cfg.Rules, size: newSize(w)}, nil
	})
	opts.Plugins.Register(StorageName, func(io.Reader) (admission.Interface, error) {
		return &storage{Handler: admission.NewHandler(admission.Create), native: cfg.Native}, nil
	})
	opts.Plugins.Register(EndedName, func(io.Reader) (admission.Interface, error) {
		return &ended{waiting: newWaiting(EndedName, ready, admission.Connect)}, nil
	})
	if cfg.Native {
		opts.Decorators = append(admission.Decorators{admission.DecoratorFunc(withoutOverhead)}, opts.Decorators...)
	}
	at := slices.Index(opts.RecommendedPluginOrder, runtimeclass.PluginName)
	if at < 0 {
		return nil, fmt.Errorf("install admission plugin %s: there is no plugin %s", PluginName, runtimeclass.PluginName)
	}
	// A copy: the list is shared by all of the process.
	opts.RecommendedPluginOrder = slices.Insert(slices.Clone(opts.RecommendedPluginOrder), at, EndedName, PluginName, HostNamespacesName, RulesName, SizeName, StorageName)
	return ready, nil
}

// defaultRuntimeClass names the class of microVMs in Pods that name none. They would run in one anyway, but then nobody
// counted the memory that the microVM takes beside its containers: the host would kill it.
type defaultRuntimeClass struct{ *admission.Handler }

var _ admission.MutationInterface = (*defaultRuntimeClass)(nil)

// Admit is called for each new object.
func (*defaultRuntimeClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := requestedPod(a)
	if err != nil || pod == nil {
		return err
	}
	if pod.Spec.RuntimeClassName == nil {
		name := RuntimeClass
		pod.Spec.RuntimeClassName = &name
	}
	return nil
}
