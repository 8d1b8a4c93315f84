package containerdshim

import (
	"context"
	"io"
	"sync"

	cdshim "github.com/containerd/containerd/runtime/v2/shim"
	"github.com/kata-containers/kata-containers/src/runtime/pkg/oci"
	vc "github.com/kata-containers/kata-containers/src/runtime/virtcontainers"
)

var quiet sync.Once

// StandIn is a shim whose sandbox has started; its events go nowhere.
func StandIn(ctx context.Context, sandbox vc.VCSandbox) cdshim.Shim {
	quiet.Do(func() {
		shimLog.Logger.SetOutput(io.Discard)
		vci.SetLogger(ctx, shimLog)
	})
	s := &service{
		ctx: ctx, rootCtx: ctx, id: sandbox.ID(), sandbox: sandbox, config: &oci.RuntimeConfig{},
		containers: map[string]*container{}, events: make(chan interface{}, chSize), ec: make(chan exit, bufferSize),
	}
	go s.processExits()
	go func() {
		for range s.events {
		}
	}()
	return s
}
