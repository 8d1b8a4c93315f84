// Command containerd-shim-kata-v2 is the stock Kata shim with five additions of ours: it answers containerd 2's
// `-info`, it has a `delete` that leaves nothing of a sandbox behind (docs/adr/0013), it looks behind itself when it
// shuts down, it puts the metrics of containers right (docs/adr/0019), and it keeps its heap small, since every Pod has
// one. It is a Go module of its own because Kata links containerd 1.7 (docs/adr/0003).
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	apitypes "github.com/containerd/containerd/api/types"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
	shim "github.com/kata-containers/kata-containers/src/runtime/pkg/containerd-shim-v2"
	"github.com/kata-containers/kata-containers/src/runtime/pkg/katautils"
	"github.com/kata-containers/kata-containers/src/runtime/pkg/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The shim's live heap is about 5 MB; collecting early keeps the garbage beside it small.
const (
	gcPercent   = 50
	memoryLimit = 32 << 20 // bytes, soft
)

func main() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	call := parse(os.Args[1:])
	var err error
	switch {
	case call.info:
		err = printProto(info())
	case call.action == "delete":
		err = deleteSandbox(call.id)
	default:
		shimapi.Run(types.DefaultKataRuntimeName, newService, func(c *shimapi.Config) {
			c.NoReaper = true
			c.NoSubreaper = true
		})
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2:", err)
		os.Exit(1)
	}
}

// call is what containerd wants of this process.
type call struct {
	info   bool
	id     string
	action string // "start", "delete", or empty for the daemon
}

// parse reads the command line that containerd builds (core/runtime/v2/shim.go and its command package):
// flags with one dash and separate values, then at most one action.
func parse(args []string) call {
	var c call
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-info", "--info":
			c.info = true
		case "-id", "--id":
			if i+1 < len(args) {
				i++
				c.id = args[i]
			}
		case "-namespace", "-address", "-publish-binary", "-socket", "-bundle":
			i++
		case "start", "delete":
			c.action = args[i]
		}
	}
	return c
}

// info is the answer to `-info`: who we are, and no deprecated annotation.
func info() *apitypes.RuntimeInfo {
	return &apitypes.RuntimeInfo{
		Name:    types.DefaultKataRuntimeName,
		Version: &apitypes.RuntimeVersion{Version: katautils.VERSION, Revision: katautils.COMMIT},
	}
}

func deleteSandbox(id string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := ours(id, exe).remove(); err != nil {
		return fmt.Errorf("delete sandbox %s: %w", id, err)
	}
	const killed = 128 + 9
	return printProto(&taskapi.DeleteResponse{ExitedAt: timestamppb.New(time.Now()), ExitStatus: killed})
}

// ours is the sandbox as this host knows it; exe is a file in the bundle's bin folder.
func ours(id, exe string) sandbox {
	return sandbox{id: id, bundle: filepath.Dir(filepath.Dir(exe)), root: "/", scratch: scratchDir(os.Getenv(configEnv)), self: os.Getpid()}
}

// service is the stock shim with true metrics and a last look around.
type service struct {
	shimapi.Shim
	sandbox sandbox
}

func newService(ctx context.Context, id string, publisher shimapi.Publisher, shutdown func()) (shimapi.Shim, error) {
	stock, err := shim.New(ctx, id, publisher, shutdown)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return service{Shim: stock, sandbox: ours(id, exe)}, nil
}

// Shutdown is called when the sandbox has been deleted, and once for each container before. The stock one ends the
// process. If QEMU or nodeless-vmm died on its own, Kata has left a cgroup, and the Pod's disk lies about.
func (s service) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if s.sandbox.deleted() {
		if err := s.sandbox.finish(); err != nil {
			fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2: clean up sandbox:", err)
		}
	}
	return s.Shim.Shutdown(ctx, r)
}

func printProto(m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(b)
	return err
}
