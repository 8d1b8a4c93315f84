// Package bounds is the admission plugin that bounds what no quota can: the size of an Event, the life of a ServiceAccount's token, and
// how fast a namespace has objects made. pkg/server/apiserver installs it. It holds for everybody and every namespace.
package bounds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // the conversions that this plugin makes
)

// Name is how --disable-admission-plugins knows the plugin.
const Name = "UncountedBounds"

// maxEvent is how large an Event may be, in bytes as it is stored. Kubernetes' own have up to 2 KiB. Without a bound one may have 3 MiB,
// and events are kept for an hour.
const maxEvent = 16 << 10

// Room tells how long a namespace has to wait until the database takes a new object of it. An object of a kind that is made to be large
// may have to wait longer.
type Room func(namespace string, large bool) time.Duration

// Install makes the plugin known and has it run, before any quota counts. It has the limit on the rate of events hold for all of them.
// There may be no room to ask for.
func Install(opts *genericoptions.AdmissionOptions, room Room) {
	opts.Plugins.Register(Name, func(io.Reader) (admission.Interface, error) { return New(room), nil })
	opts.RecommendedPluginOrder = append([]string{Name}, opts.RecommendedPluginOrder...) // a copy: the list is shared by all of the process
	opts.Decorators = append(admission.Decorators{admission.DecoratorFunc(everyEvent)}, opts.Decorators...)
}

// Plugin is the plugin.
type Plugin struct {
	*admission.Handler
	room       Room
	authorizer authorizer.Authorizer
}

var (
	_ admission.ValidationInterface     = (*Plugin)(nil)
	_ admission.InitializationValidator = (*Plugin)(nil)
	_ initializer.WantsAuthorizer       = (*Plugin)(nil)
)

// New gives a plugin that wants an authorizer.
func New(room Room) *Plugin {
	return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update), room: room}
}

// SetAuthorizer gives the plugin the word on who may what.
func (p *Plugin) SetAuthorizer(a authorizer.Authorizer) { p.authorizer = a }

// ValidateInitialization refuses to start without the authorizer.
func (p *Plugin) ValidateInitialization() error {
	if p.authorizer == nil {
		return fmt.Errorf("admission plugin %s: no authorizer", Name)
	}
	return nil
}

// Validate is called for each new or changed object.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if err := p.pace(a); err != nil {
		return err
	}
	switch object := a.GetObject().(type) {
	case *core.Event:
		return event(a, object)
	case *core.Secret:
		return p.secret(ctx, a, object)
	}
	return nil
}

// pace refuses a new object for which the database has no room now. The database would refuse it as well, but the quota has counted the
// object by then, and forgets it minutes later. Events are let through: they are small, and no quota counts them.
func (p *Plugin) pace(a admission.Attributes) error {
	if p.room == nil || a.GetOperation() != admission.Create || a.GetSubresource() != "" || a.IsDryRun() {
		return nil
	}
	large := false
	switch a.GetObject().(type) {
	case *core.Event:
		return nil
	case *core.ConfigMap, *core.Secret, *unstructured.Unstructured:
		large = true
	}
	if wait := p.room(a.GetNamespace(), large); wait > 0 {
		return TooFast(a.GetNamespace(), wait)
	}
	return nil
}

// TooFast is what one hears who has more written than the database takes for one namespace: a 429, with which clients wait and try again.
func TooFast(namespace string, wait time.Duration) error {
	after := int(math.Ceil(wait.Seconds()))
	return apierrors.NewTooManyRequests(fmt.Sprintf("namespace %q has more written than the 1 MiB a second that the database keeps for one namespace (128 MiB at once); "+
		"try again in %d seconds, and write less often or smaller objects", namespace, after), after)
}

// event refuses one that is larger than any honest one.
func event(a admission.Attributes, object *core.Event) error {
	var stored corev1.Event
	if err := legacyscheme.Scheme.Convert(object, &stored, nil); err != nil {
		return fmt.Errorf("convert Event: %w", err)
	}
	if size := stored.Size(); size > maxEvent {
		return admission.NewForbidden(a, fmt.Errorf("the event has %d bytes; it may have %d", size, maxEvent))
	}
	return nil
}

// secret refuses one for which the cluster would make a token that never expires, but to those who could be the account for ever anyway.
func (p *Plugin) secret(ctx context.Context, a admission.Attributes, object *core.Secret) error {
	if object.Type != core.SecretTypeServiceAccountToken || a.GetOperation() != admission.Create {
		return nil // the type of a Secret cannot be changed
	}
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "impersonate", APIVersion: "v1", Resource: "serviceaccounts", Namespace: a.GetNamespace(),
		Name: object.Annotations[corev1.ServiceAccountNameKey], ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask whether %s may have a token without an end: %w", a.GetUserInfo().GetName(), err)
	}
	return admission.NewForbidden(a, errors.New("a token in a Secret never expires; use `kubectl create token`, which gives one that does"))
}
