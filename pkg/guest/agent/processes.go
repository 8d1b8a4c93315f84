package agent

import (
	"context"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/container"
)

// ExecProcess runs another process in a container.
func (a *Agent) ExecProcess(_ context.Context, req *pb.ExecProcessRequest) (*emptypb.Empty, error) {
	if req.GetProcess() == nil {
		return nil, status.Error(codes.InvalidArgument, "no process given")
	}
	spec := container.ProcessFromProto(req.GetProcess())
	return empty(a.cfg.Containers.Exec(req.GetContainerId(), req.GetExecId(), spec, req.GetStdinPort() == contract.NoInput))
}

// SignalProcess sends a signal.
func (a *Agent) SignalProcess(_ context.Context, req *pb.SignalProcessRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.Signal(req.GetContainerId(), req.GetExecId(), unix.Signal(req.GetSignal())))
}

// WaitProcess waits for a process to end and returns its status.
func (a *Agent) WaitProcess(ctx context.Context, req *pb.WaitProcessRequest) (*pb.WaitProcessResponse, error) {
	code, err := a.cfg.Containers.Wait(ctx, req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	return &pb.WaitProcessResponse{Status: code}, nil
}

// WriteStdin writes to a process's standard input.
func (a *Agent) WriteStdin(ctx context.Context, req *pb.WriteStreamRequest) (*pb.WriteStreamResponse, error) {
	n, err := a.cfg.Containers.Write(ctx, req.GetContainerId(), req.GetExecId(), req.GetData())
	if err != nil {
		return nil, err
	}
	return &pb.WriteStreamResponse{Len: uint32(n)}, nil
}

// ReadStdout reads from a process's standard output.
func (a *Agent) ReadStdout(ctx context.Context, req *pb.ReadStreamRequest) (*pb.ReadStreamResponse, error) {
	return a.read(ctx, req, false)
}

// ReadStderr reads from a process's standard error.
func (a *Agent) ReadStderr(ctx context.Context, req *pb.ReadStreamRequest) (*pb.ReadStreamResponse, error) {
	return a.read(ctx, req, true)
}

func (a *Agent) read(ctx context.Context, req *pb.ReadStreamRequest, stderr bool) (*pb.ReadStreamResponse, error) {
	data, err := a.cfg.Containers.Read(ctx, req.GetContainerId(), req.GetExecId(), stderr, int(req.GetLen()))
	if err != nil {
		return nil, err
	}
	return &pb.ReadStreamResponse{Data: data}, nil
}

// CloseStdin ends a process's standard input.
func (a *Agent) CloseStdin(_ context.Context, req *pb.CloseStdinRequest) (*emptypb.Empty, error) {
	return empty(a.cfg.Containers.CloseStdin(req.GetContainerId(), req.GetExecId()))
}

// TtyWinResize sets the size of a process's terminal.
func (a *Agent) TtyWinResize(_ context.Context, req *pb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	err := a.cfg.Containers.Resize(req.GetContainerId(), req.GetExecId(), uint16(req.GetRow()), uint16(req.GetColumn()))
	return empty(err)
}
