package agent

import (
	"context"

	"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	guestnet "github.com/nodeless/nodeless/pkg/guest/net"
)

// UpdateInterface configures a network interface.
func (a *Agent) UpdateInterface(ctx context.Context, req *pb.UpdateInterfaceRequest) (*protocols.Interface, error) {
	if err := guestnet.UpdateInterface(ctx, req.GetInterface()); err != nil {
		return nil, err
	}
	return req.GetInterface(), nil
}

// UpdateRoutes configures the routing table.
func (a *Agent) UpdateRoutes(ctx context.Context, req *pb.UpdateRoutesRequest) (*pb.Routes, error) {
	if err := guestnet.UpdateRoutes(req.GetRoutes().GetRoutes()); err != nil {
		return nil, err
	}
	return a.ListRoutes(ctx, nil)
}

// ListInterfaces lists the network interfaces.
func (a *Agent) ListInterfaces(context.Context, *pb.ListInterfacesRequest) (*pb.Interfaces, error) {
	list, err := guestnet.ListInterfaces()
	if err != nil {
		return nil, err
	}
	return &pb.Interfaces{Interfaces: list}, nil
}

// ListRoutes lists the routes.
func (a *Agent) ListRoutes(context.Context, *pb.ListRoutesRequest) (*pb.Routes, error) {
	list, err := guestnet.ListRoutes()
	if err != nil {
		return nil, err
	}
	return &pb.Routes{Routes: list}, nil
}

// AddARPNeighbors sets fixed neighbours.
func (a *Agent) AddARPNeighbors(_ context.Context, req *pb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return empty(guestnet.AddNeighbours(req.GetNeighbors().GetARPNeighbors()))
}
