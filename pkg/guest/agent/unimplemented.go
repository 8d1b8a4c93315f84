package agent

import (
	"context"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// unimplemented answers the optional methods this agent leaves out; Kata goes on without them.
type unimplemented struct{}

var _ pb.AgentServiceService = (*Agent)(nil)

func missing(method string) error {
	return status.Error(codes.Unimplemented, method+" is not implemented by this agent")
}

func (unimplemented) GetIPTables(context.Context, *pb.GetIPTablesRequest) (*pb.GetIPTablesResponse, error) {
	return nil, missing("GetIPTables")
}

func (unimplemented) SetIPTables(context.Context, *pb.SetIPTablesRequest) (*pb.SetIPTablesResponse, error) {
	return nil, missing("SetIPTables")
}

func (unimplemented) GetMetrics(context.Context, *pb.GetMetricsRequest) (*pb.Metrics, error) {
	return nil, missing("GetMetrics")
}

func (unimplemented) MemAgentMemcgSet(context.Context, *pb.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, missing("MemAgentMemcgSet")
}

func (unimplemented) MemAgentCompactSet(context.Context, *pb.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, missing("MemAgentCompactSet")
}

func (unimplemented) MemHotplugByProbe(context.Context, *pb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	return nil, missing("MemHotplugByProbe")
}

func (unimplemented) AddSwap(context.Context, *pb.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, missing("AddSwap")
}

func (unimplemented) AddSwapPath(context.Context, *pb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, missing("AddSwapPath")
}

func (unimplemented) SetPolicy(context.Context, *pb.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, missing("SetPolicy")
}
