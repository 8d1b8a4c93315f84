package cri

import (
	"context"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/contract"
)

// proxy answers the calls that are not containerd's.
type proxy struct {
	cri.UnimplementedRuntimeServiceServer // never reached: only the methods below are registered
	upstream                              cri.RuntimeServiceClient
	tasks                                 tasks.TasksClient
	streams                               *streams
	figures                               figures
	messages                              lastWords
	boot                                  *semaphore
}

// RunPodSandbox boots a microVM when it is its turn.
func (f *proxy) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	leave, err := f.boot.acquire(ctx, req.GetConfig().GetMetadata())
	if err != nil {
		return nil, err
	}
	defer leave()
	open(req.GetConfig())
	return f.upstream.RunPodSandbox(about(ctx, req.GetConfig()), req)
}

// CreateContainer names the target of a container that shares another one's PID namespace.
func (f *proxy) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	nameTarget(req.GetConfig())
	return f.upstream.CreateContainer(about(ctx, req.GetSandboxConfig()), req)
}

// nameTarget sets the annotation, and removes one that came from elsewhere.
func nameTarget(config *cri.ContainerConfig) {
	delete(config.GetAnnotations(), contract.PIDTarget)
	ns := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if ns.GetPid() != cri.NamespaceMode_TARGET || ns.GetTargetId() == "" {
		return
	}
	if config.Annotations == nil {
		config.Annotations = map[string]string{}
	}
	config.Annotations[contract.PIDTarget] = ns.GetTargetId()
}

// PortForward answers with the address of a stream into the guest, or with containerd's if the sandbox is no microVM.
func (f *proxy) PortForward(ctx context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	if !f.streams.guests.has(req.GetPodSandboxId()) {
		return f.upstream.PortForward(outgoing(ctx), req)
	}
	return f.streams.server.GetPortForward(req)
}

// Exec answers with the address of a session that a broken connection ends with an error.
func (f *proxy) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	return f.streams.server.GetExec(req)
}

// Attach answers with the address of such a session.
func (f *proxy) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	return f.streams.server.GetAttach(req)
}

// puller answers the one call of the image service that is about a Pod.
type puller struct {
	cri.UnimplementedImageServiceServer // never reached: only PullImage is registered
	upstream                            cri.ImageServiceClient
}

// PullImage says whose image it is: strangers share what containerd can download.
func (p *puller) PullImage(ctx context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	return p.upstream.PullImage(about(ctx, req.GetSandboxConfig()), req)
}

// about is the context of a call that says which Pod's namespace it is about.
func about(ctx context.Context, pod *cri.PodSandboxConfig) context.Context {
	ctx = outgoing(ctx)
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	md.Set(api.PodNamespaceHeader, pod.GetMetadata().GetNamespace())
	return metadata.NewOutgoingContext(ctx, md)
}

func outgoing(ctx context.Context) context.Context {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		return metadata.NewOutgoingContext(ctx, md.Copy())
	}
	return ctx
}
