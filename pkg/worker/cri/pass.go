package cri

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that rawCodec stands in front of
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// frame is a message that nobody decodes.
type frame struct{ data []byte }

// rawCodec leaves frames as they are; other messages are protobuf's.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

// Name is the content subtype on the wire.
func (rawCodec) Name() string { return "proto" }

// Marshal encodes v.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, raw := v.(*frame); raw {
		return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

// Unmarshal decodes into v.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, raw := v.(*frame); raw {
		f.data = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// passer hands calls on to another server.
type passer struct{ to *grpc.ClientConn }

// both ends may send at any time: a call with one message each way is the simplest case of it.
var both = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// pass is the handler of every method that this package has no opinion on.
func (p passer) pass(_ any, in grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(in)
	if !ok {
		return status.Error(codes.Internal, "call without a method")
	}
	if err := noStream(method); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md.Copy())
	}
	out, err := p.to.NewStream(ctx, both, method)
	if err != nil {
		return err
	}
	go func() {
		if copyFrames(out, in) != nil {
			cancel() // the caller has gone
			return
		}
		_ = out.CloseSend() // it always succeeds
	}()
	err = copyFrames(in, out)
	trailer := out.Trailer().Copy()
	trailer.Delete(detailsTrailer)
	in.SetTrailer(trailer)
	return err
}

// messages is either end of a stream.
type messages interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// copyFrames copies until the source ends; its status, unless it is a good one, is the error. A call that the other server has answered
// before it had all is no error: io.EOF says that its status can be received.
func copyFrames(to, from messages) error {
	for {
		var f frame
		err := from.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // a status, to be passed on as it is
		}
		if err := to.SendMsg(&f); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pass message on: %w", err)
		}
	}
}
