// Command badguest is /init of a microVM that means ill. The tests of tests/robustness put it behind the bundle's initrd,
// whose kernel modules it loads, with a file /behaviour that says what to do. It runs no container: it says yes to every
// request, and where the behaviour is about answers, lies.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/ttrpc"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/boot"
)

func main() {
	err := run()
	fmt.Println("badguest:", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	behaviour, err := os.ReadFile("/behaviour")
	if err != nil {
		return err
	}
	if err := boot.Mounts(); err != nil {
		return err
	}
	if err := boot.Run(slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	port, err := boot.OpenPort(context.Background(), "agent")
	if err != nil {
		return err
	}
	switch word := strings.TrimSpace(string(behaviour)); word {
	case "mute": // boots and never answers
		select {}
	case "console": // answers as it should, beside an endless console
		go flood(os.Stdout, bytes.Repeat([]byte("\x1b[31mKernel panic - not syncing: \xff\x00"), 4096))
		return serve(port, word)
	case "noise": // fills the port before anybody has asked for anything
		return flood(port, noise())
	case "pings":
		return after(port, frames(0x02, 0)) // a ping that wants an answer
	case "streams":
		return after(port, frames(0x01, 1)) // a window update that opens a stream
	default:
		return serve(port, word)
	}
}

// flood writes the same again and again.
func flood(w io.Writer, p []byte) error {
	for {
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
}

func noise() []byte {
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

// frames are many headers of the mux that want something of the host; no byte of them is a marker.
func frames(kind byte, stream int) []byte {
	var b []byte
	for i := range 4096 {
		id := i * 2 * stream
		b = append(b, 0, kind, 0, 1, 0, 0, byte(id>>8)&0x7f, byte(id)&0x7e, 0, 0, 0, 1)
	}
	return b
}

// after answers the host's preamble, so that there is a session, and floods it.
func after(port io.ReadWriteCloser, p []byte) error {
	up := make(chan struct{})
	if _, err := agentmux.Listen(context.Background(), port, agentmux.Guest{Attached: func(contract.Hello) { close(up) }}); err != nil {
		return err
	}
	<-up
	time.Sleep(time.Second) // the acknowledgement goes first
	return flood(port, p)
}

// spin takes every vCPU for good: real-time threads that nothing throttles.
func spin() {
	_ = os.WriteFile("/proc/sys/kernel/sched_rt_runtime_us", []byte("-1"), 0)
	for range 2 * runtime.NumCPU() {
		go func() {
			runtime.LockOSThread()
			most := struct{ priority int32 }{99}
			const fifo = 1
			_, _, _ = unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, fifo, uintptr(unsafe.Pointer(&most)))
			for { //nolint:staticcheck // this is the point
			}
		}()
	}
}

// methods are the requests of Kata's agent protocol that a Pod's life needs.
var methods = []string{
	"CreateContainer", "StartContainer", "RemoveContainer", "ExecProcess", "SignalProcess", "WaitProcess", "UpdateContainer",
	"UpdateEphemeralMounts", "StatsContainer", "PauseContainer", "ResumeContainer", "RemoveStaleVirtiofsShareMounts", "WriteStdin",
	"ReadStdout", "ReadStderr", "CloseStdin", "TtyWinResize", "UpdateInterface", "UpdateRoutes", "ListInterfaces", "ListRoutes",
	"AddARPNeighbors", "CreateSandbox", "DestroySandbox", "OnlineCPUMem", "ReseedRandomDev", "GetGuestDetails", "MemHotplugByProbe",
	"SetGuestDateTime", "CopyFile", "GetOOMEvent", "AddSwap", "GetVolumeStats", "ResizeVolume", "SetPolicy",
}

// serve answers every request.
func serve(port io.ReadWriteCloser, behaviour string) error {
	l, err := agentmux.Listen(context.Background(), port, agentmux.Guest{Attached: func(h contract.Hello) { _ = boot.SetClock(h.Time) }})
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	agent := map[string]ttrpc.Method{}
	for _, name := range methods {
		agent[name] = func(ctx context.Context, _ func(any) error) (any, error) { return answer(ctx, behaviour, name) }
	}
	srv.RegisterService("grpc.AgentService", &ttrpc.ServiceDesc{Methods: agent})
	yes := func(context.Context, func(any) error) (any, error) {
		return &pb.HealthCheckResponse{Status: pb.HealthCheckResponse_SERVING}, nil
	}
	srv.RegisterService("grpc.Health", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Check": yes}})
	return srv.Serve(context.Background(), l)
}

// answer is what one request gets.
func answer(ctx context.Context, behaviour, method string) (any, error) {
	switch method {
	case "WaitProcess":
		if behaviour == "exits" {
			return &pb.WaitProcessResponse{Status: -1 << 31}, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "ReadStdout":
		switch behaviour {
		case "long": // more than was asked for
			return &pb.ReadStreamResponse{Data: bytes.Repeat([]byte("x"), 3<<20)}, nil
		case "empty": // nothing, at once, for ever
			return &pb.ReadStreamResponse{}, nil
		case "exits":
			return nil, io.EOF
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "ReadStderr":
		if behaviour == "exits" {
			return nil, io.EOF
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "GetOOMEvent":
		if behaviour == "oom" {
			return &pb.OOMEvent{ContainerId: "../../../../etc/passwd"}, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "CreateContainer", "SignalProcess", "RemoveContainer", "DestroySandbox":
		if behaviour == "stuck" && method != "DestroySandbox" { // takes the order and never comes back
			<-ctx.Done()
			return nil, ctx.Err()
		}
	case "StartContainer":
		if behaviour == "spin" {
			time.AfterFunc(5*time.Second, spin) // the Pod is seen to run first
		}
	case "GetGuestDetails": // without seccomp Kata would not go on
		return &pb.GuestDetailsResponse{MemBlockSizeBytes: 128 << 20, AgentDetails: &pb.AgentDetails{InitDaemon: true, SupportsSeccomp: true}}, nil
	case "StatsContainer":
		if behaviour == "figures" {
			return figures(), nil
		}
	}
	return &emptypb.Empty{}, nil
}

// figures are impossible ones.
func figures() *pb.StatsContainerResponse {
	const most = ^uint64(0)
	return &pb.StatsContainerResponse{CgroupStats: &pb.CgroupStats{
		CpuStats:    &pb.CpuStats{CpuUsage: &pb.CpuUsage{TotalUsage: most}},
		MemoryStats: &pb.MemoryStats{Usage: &pb.MemoryData{Usage: most, MaxUsage: most}, Stats: map[string]uint64{"total_inactive_file": most}},
	}}
}
