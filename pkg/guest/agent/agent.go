package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/guest/container"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

// Config is what an Agent works with.
type Config struct {
	Containers *container.Manager
	Mounts     *mount.Table
	Version    string
	Log        *slog.Logger
	// Debug logs each message; that costs a third of a second of a sandbox's start under emulation.
	Debug bool
}

// Agent serves the protocol for the one sandbox of a guest.
type Agent struct {
	unimplemented
	cfg Config
	sys fs.FS

	mu        sync.Mutex
	sandboxID string               // guarded by mu
	mounted   map[string][]string  // mount points by container, guarded by mu
	creations map[string]*creation // by container, guarded by mu
}

// New returns an Agent that reads devices from sys (/sys).
func New(cfg Config, sys fs.FS) *Agent {
	return &Agent{cfg: cfg, sys: sys, mounted: map[string][]string{}, creations: map[string]*creation{}}
}

// Serve answers on the connections of l until ctx ends or l fails.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	srv, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(a.intercept))
	if err != nil {
		return fmt.Errorf("make protocol server: %w", err)
	}
	pb.RegisterAgentServiceService(srv, a)
	pb.RegisterHealthService(srv, health{version: a.cfg.Version})
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		return fmt.Errorf("serve agent protocol: %w", err)
	}
	return ctx.Err()
}

// intercept gives errors their protocol codes, and logs messages when asked to.
func (a *Agent) intercept(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	begin := time.Now()
	out, err := call(ctx, decode)
	if a.cfg.Debug {
		a.cfg.Log.Debug("message", "method", info.FullMethod, "took", time.Since(begin), "err", err)
	}
	return out, withCode(err)
}

// withCode finds the protocol code of an error; one that has a code keeps it.
func withCode(err error) error {
	if err == nil {
		return nil
	}
	if _, coded := status.FromError(err); coded {
		return err
	}
	code := codes.Internal
	for _, m := range []struct {
		kind error
		code codes.Code
	}{
		{container.ErrNotFound, codes.NotFound},
		{container.ErrExists, codes.AlreadyExists},
		{container.ErrNotRunning, codes.FailedPrecondition},
		{container.ErrName, codes.InvalidArgument},
		{container.ErrPause, codes.FailedPrecondition},
		{container.ErrNoTerminal, codes.FailedPrecondition},
		{os.ErrClosed, codes.FailedPrecondition},
		{mount.ErrUnsupported, codes.Unimplemented},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{io.EOF, codes.OutOfRange},
	} {
		if errors.Is(err, m.kind) {
			code = m.code
			break
		}
	}
	return status.Error(code, err.Error())
}

// empty is the answer of most methods.
func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// health answers whether the agent is up.
type health struct{ version string }

func (health) Check(context.Context, *pb.CheckRequest) (*pb.HealthCheckResponse, error) {
	return &pb.HealthCheckResponse{Status: pb.HealthCheckResponse_SERVING}, nil
}

func (h health) Version(context.Context, *pb.CheckRequest) (*pb.VersionCheckResponse, error) {
	return &pb.VersionCheckResponse{AgentVersion: h.version, GrpcVersion: "0.0.1"}, nil
}
