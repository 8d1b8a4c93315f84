// Package apiserver runs kube-apiserver in this process. pkg/server starts it when the datastore answers;
// everything else talks to it through its secure port.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/apiserver/bounds"
	"github.com/nodeless/nodeless/pkg/server/apiserver/guard"
)

// component is what upstream calls it.
const component = "kube-apiserver"

// APIServer is the component.
type APIServer struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*APIServer)(nil)
	_ run.Readier   = (*APIServer)(nil)
)

// New gives an apiserver that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *APIServer { return &APIServer{cfg: cfg, log: log} }

// Name is "apiserver".
func (a *APIServer) Name() string { return "apiserver" }

// Run serves until ctx ends.
func (a *APIServer) Run(ctx context.Context) error {
	if err := a.cfg.Validate(); err != nil {
		return err
	}
	if err := a.cfg.writeFiles(); err != nil {
		return err
	}
	listener, err := listen(ctx, a.cfg.BindAddress, a.cfg.Port)
	if err != nil {
		return err
	}
	completed, plugins, err := a.options(ctx, listener)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // it would warn of its own requests
	servers, err := chain(completed, a.cfg)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := servers.GenericAPIServer.AddReadyzChecks(plugins); err != nil {
		return errors.Join(fmt.Errorf("add to /readyz: %w", err), listener.Close())
	}
	prepared, err := servers.PrepareRun()
	if err != nil {
		return errors.Join(fmt.Errorf("prepare kube-apiserver: %w", err), listener.Close())
	}
	if err := prepared.Run(ctx); err != nil {
		return fmt.Errorf("run kube-apiserver: %w", err)
	}
	return nil
}

func (a *APIServer) options(ctx context.Context, listener net.Listener) (options.CompletedOptions, *admission.Readiness, error) {
	opts := options.NewServerRunOptions()
	plugins, err := admission.Install(opts.Admission.GenericAdmission, a.cfg.Admission)
	if err != nil {
		return options.CompletedOptions{}, nil, err
	}
	bounds.Install(opts.Admission.GenericAdmission, a.cfg.Room)
	if err := kubeflags.Parse(component, opts.Flags(), Args(a.cfg)); err != nil {
		return options.CompletedOptions{}, nil, err
	}
	if err := opts.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return options.CompletedOptions{}, nil, fmt.Errorf("set feature gates of kube-apiserver: %w", err)
	}
	opts.SecureServing.Listener = guard.Listen(listener, a.cfg.Limits.Conns, guard.OfThisHost)
	completed, err := opts.Complete(ctx)
	if err != nil {
		return options.CompletedOptions{}, nil, fmt.Errorf("complete options of kube-apiserver: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return options.CompletedOptions{}, nil, fmt.Errorf("validate options of kube-apiserver: %w", utilerrors.NewAggregate(errs))
	}
	return completed, plugins, nil
}

// listen takes the port here, not in the depth of the apiserver, so that the error can say what to do.
func listen(ctx context.Context, address string, port int) (net.Listener, error) {
	on := net.JoinHostPort(address, strconv.Itoa(port))
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", on)
	if err != nil {
		return nil, &hint.Error{Op: "listen on", On: on, Err: err,
			Do: fmt.Sprintf("stop the program that has the port (ss -ltnp 'sport = :%d' names it), or choose other ones with --bind-address and --https-listen-port", port)}
	}
	return listener, nil
}

// Ready waits until /readyz says ok to our own client certificate.
func (a *APIServer) Ready(ctx context.Context) error { return kube.WaitReadyz(ctx, a.cfg.Access) }
