// Command containerd-shim-kata-v2 is the stock Kata shim with additions of ours:
//
//   - it answers containerd 2's `-info`;
//   - its `delete` leaves nothing of a sandbox behind (docs/adr/0013), and it looks behind itself when it shuts down;
//   - it shares a Pod's volumes once for all its containers (docs/adr/0017);
//   - it lets a microVM grow with its containers (docs/adr/0018);
//   - it keeps of root's rights those that it has use for (docs/adr/0034);
//   - it starts virtiofsd in namespaces of its own, one of users among them (docs/adr/0035);
//   - it puts the metrics of containers right (docs/adr/0019);
//   - it ends the microVM of a guest that does not obey SIGKILL;
//   - it tells the end of containers that never ran;
//   - it bounds what a guest may have it report, and how fast containers fill their logs;
//   - it keeps its heap small, since every Pod has one.
//
// It is a Go module of its own because Kata links containerd 1.7 (docs/adr/0003).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/namespaces"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
	shim "github.com/kata-containers/kata-containers/src/runtime/pkg/containerd-shim-v2"
	"github.com/kata-containers/kata-containers/src/runtime/pkg/katautils"
	"github.com/kata-containers/kata-containers/src/runtime/pkg/types"
	vc "github.com/kata-containers/kata-containers/src/runtime/virtcontainers"
	"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/utils"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nodeless/nodeless/pkg/contract"
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
	call.daemon = newDaemon(hostConfig(os.Getenv(contract.ConfigEnv)))
	utils.StartCmd, vc.Bind = call.daemon.start, call.daemon.bind
	var err error
	if !call.info {
		err = confine()
	}
	switch {
	case err != nil:
	case call.info:
		err = printProto(info())
	case call.action == "delete":
		err = deleteSandbox(call)
	default:
		shimapi.Run(types.DefaultKataRuntimeName, call.newService, func(c *shimapi.Config) {
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
	info               bool
	id                 string
	namespace, address string // of containerd
	task               string // the folder that containerd keeps for the task, which is its bundle
	action             string // "start", "delete", or empty for the daemon

	daemon *daemon
}

// parse reads the command line that containerd builds (core/runtime/v2/shim.go and its command package):
// flags with one dash and separate values, then at most one action.
func parse(args []string) call {
	var c call
	var ignored string
	values := map[string]*string{"-id": &c.id, "--id": &c.id, "-namespace": &c.namespace, "-address": &c.address,
		"-publish-binary": &ignored, "-socket": &ignored, "-bundle": &c.task}
	for i := 0; i < len(args); i++ {
		if value, ok := values[args[i]]; ok {
			if i++; i < len(args) {
				*value = args[i]
			}
			continue
		}
		switch args[i] {
		case "-info", "--info":
			c.info = true
		case "start", "delete":
			c.action = args[i]
		}
	}
	return c
}

// features tells containerd, in its own form, which mount options the kubelet may ask for; without "rro" it refuses Pods with
// recursively read-only mounts.
const (
	featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
	features     = `{"mountOptions":["bind","rbind","ro","rro","rprivate","rslave","rshared"]}`
)

// info is the answer to `-info`: who we are, no deprecated annotation, and what we can do.
func info() *apitypes.RuntimeInfo {
	return &apitypes.RuntimeInfo{
		Name:     types.DefaultKataRuntimeName,
		Version:  &apitypes.RuntimeVersion{Version: katautils.VERSION, Revision: katautils.COMMIT},
		Features: &anypb.Any{TypeUrl: featuresType, Value: []byte(features)},
	}
}

func deleteSandbox(c call) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := errors.Join(restoreLifted(c.task), c.sandbox(exe).remove()); err != nil {
		return fmt.Errorf("delete sandbox %s: %w", c.id, err)
	}
	const killed = 128 + 9
	return printProto(&taskapi.DeleteResponse{ExitedAt: timestamppb.New(time.Now()), ExitStatus: killed})
}

// sandbox is the one that is meant, as this host knows it; exe is a file in the bundle's bin folder.
func (c call) sandbox(exe string) sandbox {
	return sandbox{
		id: c.id, bundle: filepath.Dir(filepath.Dir(exe)), root: "/", scratch: hostConfig(os.Getenv(contract.ConfigEnv)).ScratchDir,
		socket: c.socket(), task: c.task, self: os.Getpid(),
	}
}

// socket is where the shim of a sandbox listens; for the id of a plain container there is no such file.
func (c call) socket() string {
	if c.namespace == "" || c.address == "" {
		return ""
	}
	address, err := shimapi.SocketAddress(namespaces.WithNamespace(context.Background(), c.namespace), c.address, c.id)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(address, "unix://")
}

// service is the stock shim with our way with volumes, an eye on sizes, a last word and a last look around.
type service struct {
	shimapi.Shim
	sandbox   sandbox
	volumes   *volumes
	sizer     *sizer
	boost     *boost
	unstarted *unstarted
	doomed    *doomed
	end       func() error // ends the microVM
	giveUp    func()       // ends this process
}

func (c call) newService(ctx context.Context, id string, stockPublisher shimapi.Publisher, shutdown func()) (shimapi.Shim, error) {
	shim.Pace = newPace(hostConfig(os.Getenv(contract.ConfigEnv)).LogRate).around // before any container says anything
	stock, err := shim.New(ctx, id, &publisher{Publisher: stockPublisher, now: time.Now}, shutdown)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c.id = id
	if c.task, err = os.Getwd(); err != nil { // where containerd has started us
		return nil, err
	}
	sb := c.sandbox(exe)
	vc.Patience = patience{effort: vm{dir: sb.vmDir()}.effort}.around // before the guest is asked anything
	return service{
		Shim: stock, sandbox: sb, volumes: newVolumes("/", id, c.daemon.show), end: sb.kill,
		giveUp: func() { os.Exit(1) },
		boost:  &boost{}, unstarted: newUnstarted(), doomed: newDoomed(),
		sizer: &sizer{machine: vm{dir: sb.vmDir()}, containers: map[string]limits{}},
	}, nil
}

// Shutdown is called when the sandbox has been deleted, and once for each container before. The stock one ends the
// process, and leaves the socket. If QEMU or nodeless-vmm died on its own, Kata has left a cgroup, and the Pod's disk
// lies about.
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
