package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/unixsocket"
	"github.com/nodeless/nodeless/pkg/vmm"
)

const (
	// maxMessage bounds a message, in bytes; it is containerd's and the kubelet's own limit.
	maxMessage = 16 << 20
	// maxBackoff is how long containerd may be back before it is noticed.
	maxBackoff = time.Second
)

// answered are the calls that do not go through as they are.
var answered = []string{
	"CreateContainer", "Exec", "Attach", "PortForward", "UpdatePodSandboxResources", "PullImage", "PodSandboxStats", "ListPodSandboxStats",
	"ContainerStatus", "RemoveContainer", "RunPodSandbox",
}

// CRI is the component.
type CRI struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{} // closed when the socket is open
	boot  *semaphore    // set before ready is closed
}

var (
	_ run.Component = (*CRI)(nil)
	_ run.Readier   = (*CRI)(nil)
)

// New gives a component that has not opened anything yet.
func New(cfg Config, log *slog.Logger) *CRI {
	return &CRI{cfg: cfg, log: log, ready: make(chan struct{})}
}

// Name is "cri".
func (c *CRI) Name() string { return "cri" }

// Ready waits until the kubelet can connect.
func (c *CRI) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Boots are the Pods whose microVMs boot, or wait for their turn, at this moment.
func (c *CRI) Boots() []vmm.Boot {
	select {
	case <-c.ready:
		return c.boot.list()
	default:
		return nil
	}
}

// Run serves until ctx ends.
func (c *CRI) Run(ctx context.Context) (err error) {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	host, err := vmm.LoadHostConfig(c.cfg.VMMConfig)
	if err != nil {
		return err
	}
	upstream, err := dialUpstream(c.cfg.Upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, upstream.Close()) }()
	client := cri.NewRuntimeServiceClient(upstream)
	kept, err := newLastWords(c.cfg.Pods, c.cfg.Messages)
	if err != nil {
		return err
	}
	streams, err := newStreams(ctx, dialer{dir: c.cfg.VMDir}, client, c.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, streams.close()) }()
	listener, err := unixsocket.Listen(ctx, c.cfg.Socket)
	if err != nil {
		return err
	}
	figures := figures{cgroups: "/sys/fs/cgroup", root: c.cfg.CgroupRoot, scratch: host.ScratchDir, pods: c.cfg.Pods}
	c.boot = newSemaphore(places(host.Accel, runtime.NumCPU()))
	server := newServer(&proxy{upstream: client, tasks: tasks.NewTasksClient(upstream), streams: streams, figures: figures, messages: kept, boot: c.boot},
		&puller{upstream: cri.NewImageServiceClient(upstream)}, passer{to: upstream})
	stop := context.AfterFunc(ctx, server.Stop) // streams last for ever, so there is nothing to wait for
	close(c.ready)
	err = server.Serve(listener)
	if stop() {
		return fmt.Errorf("serve %s: %w", c.cfg.Socket, err)
	}
	return nil
}

// newServer answers the calls of f and images and passes every other one on by p.
func newServer(f *proxy, images *puller, p passer) *grpc.Server {
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(p.pass),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(brieflyOne), grpc.StreamInterceptor(brieflyAll),
	)
	server.RegisterService(only(cri.RuntimeService_ServiceDesc), f)
	server.RegisterService(only(cri.ImageService_ServiceDesc), images)
	return server
}

// only is a service without the calls that go through.
func only(service grpc.ServiceDesc) *grpc.ServiceDesc {
	service.Streams = nil
	service.Methods = slices.DeleteFunc(slices.Clone(service.Methods), func(m grpc.MethodDesc) bool {
		return !slices.Contains(answered, m.MethodName)
	})
	return &service
}

func dialUpstream(socket string) (*grpc.ClientConn, error) {
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 50*time.Millisecond, maxBackoff
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: maxBackoff}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", socket, err)
	}
	return conn, nil
}
