package cri

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/vmm"
	"github.com/nodeless/nodeless/tests/attack"
)

// upstream is the runtime behind the one under test.
type upstream struct {
	cri.UnimplementedRuntimeServiceServer
	created chan *cri.CreateContainerRequest
	whose   chan []string // the namespaces that calls said they are about
	streams streaming.Server
	status  *cri.ContainerStatus
	fails   error              // what calls fail with; nil for how they do otherwise
	boots   chan chan struct{} // each sandbox that is being made; it is made when its channel is closed
}

func (*upstream) Version(ctx context.Context, req *cri.VersionRequest) (*cri.VersionResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &cri.VersionResponse{Version: req.GetVersion(), RuntimeName: fmt.Sprint(md.Get("caller"))}, nil
}

func (u *upstream) StopContainer(_ context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	if u.fails != nil {
		return nil, u.fails
	}
	return nil, status.Errorf(codes.NotFound, "no container %s", req.GetContainerId())
}

func (u *upstream) GetContainerEvents(_ *cri.GetEventsRequest, s cri.RuntimeService_GetContainerEventsServer) error {
	if u.fails != nil {
		return u.fails
	}
	for _, id := range []string{"a", "b"} {
		if err := s.Send(&cri.ContainerEventResponse{ContainerId: id}); err != nil {
			return err
		}
	}
	return status.Error(codes.Aborted, "that is all")
}

func (u *upstream) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	u.created <- req
	u.say(ctx)
	return &cri.CreateContainerResponse{ContainerId: "made"}, nil
}

// say notes whom a call is about.
func (u *upstream) say(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	select {
	case u.whose <- md.Get(api.PodNamespaceHeader):
	default:
	}
}

// pulled is the image service behind the one under test.
type pulled struct {
	cri.UnimplementedImageServiceServer
	*upstream
}

func (p pulled) PullImage(ctx context.Context, _ *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	p.say(ctx)
	return &cri.PullImageResponse{ImageRef: "pulled"}, p.fails
}

// TestContainerdIsToldWhoseAnImageIs: by the Pod in the request, whatever the caller says beside it.
func TestContainerdIsToldWhoseAnImageIs(t *testing.T) {
	client, up, cfg := start(t)
	conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), api.PodNamespaceHeader, "forged")
	pod := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Namespace: "shop"}}
	if _, err := cri.NewImageServiceClient(conn).PullImage(ctx, &cri.PullImageRequest{SandboxConfig: pod}); err != nil {
		t.Fatal(err)
	}
	if got := <-up.whose; len(got) != 1 || got[0] != "shop" {
		t.Errorf("PullImage is about %q", got)
	}
	if _, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{SandboxConfig: pod}); err != nil {
		t.Fatal(err)
	}
	if got := <-up.whose; len(got) != 1 || got[0] != "shop" {
		t.Errorf("CreateContainer is about %q", got)
	}
}

func (*upstream) PortForward(context.Context, *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	return &cri.PortForwardResponse{Url: "containerd's"}, nil
}

// start runs the component in front of an upstream and gives a client of it.
func start(t *testing.T) (cri.RuntimeServiceClient, *upstream, Config) {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{Socket: filepath.Join(dir, "cri.sock"), Upstream: filepath.Join(dir, "up.sock"), VMDir: filepath.Join(dir, "vm"), Pods: filepath.Join(dir, "pods"), Messages: filepath.Join(dir, "messages"), CgroupRoot: "/nodeless", VMMConfig: filepath.Join(dir, "vmm.json")}
	if err := os.WriteFile(cfg.VMMConfig, []byte(`{"accel":"kvm","bundle":"/b","scratchDir":"/s","logDir":"/l"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	up := &upstream{created: make(chan *cri.CreateContainerRequest, 1), whose: make(chan []string, 1), boots: make(chan chan struct{})}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, up)
	cri.RegisterImageServiceServer(server, pulled{upstream: up})
	listener, err := net.Listen("unix", cfg.Upstream)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener) //nolint:errcheck // ends with Stop
	t.Cleanup(server.Stop)

	ctx, cancel := context.WithCancel(context.Background())
	c := New(cfg, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v after its context has ended", err)
		}
	})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return cri.NewRuntimeServiceClient(conn), up, cfg
}

// of is what a sandbox says of its Pod.
func of(namespace string) *cri.PodSandboxMetadata {
	return &cri.PodSandboxMetadata{Namespace: namespace, Name: "web", Uid: "uid"}
}

func TestWhoBootsAndWhoWaitsIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSemaphore(1)
		leave, err := g.acquire(t.Context(), of("a"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		late, cancel := context.WithCancel(t.Context())
		given := make(chan error)
		go func() {
			_, err := g.acquire(late, of("b"))
			given <- err
		}()
		synctest.Wait()
		pod := func(namespace string) sandboxrecord.Pod {
			return sandboxrecord.Pod{Namespace: namespace, Name: "web", UID: "uid"}
		}
		want := []vmm.Boot{{Pod: pod("a"), Booting: true, Since: time.Now().Add(-time.Second)}, {Pod: pod("b"), Since: time.Now()}}
		if diff := cmp.Diff(want, g.list()); diff != "" {
			t.Errorf("boots (-want +got):\n%s", diff)
		}
		cancel()
		if err := <-given; err == nil {
			t.Error("who waits no longer has a place")
		}
		leave()
		if left := g.list(); len(left) != 0 {
			t.Errorf("left over: %v", left)
		}
	})
}

func TestMicroVMsBootInTurn(t *testing.T) {
	g := newSemaphore(2)
	first, err := g.acquire(t.Context(), of("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.acquire(t.Context(), of("a")); err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the kubelet waits no longer"))
	if _, err := g.acquire(late, of("b")); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "2 other microVMs are booting") {
		t.Errorf("a third boot, given up = %v; want what it waited for", err)
	}
	first()
	first() // is no second place
	if _, err := g.acquire(t.Context(), of("a")); err != nil {
		t.Errorf("enter after one has left = %v", err)
	}
	if _, err := g.acquire(late, of("b")); err == nil {
		t.Error("one who left made room for two")
	}
}

// TestAPodKeepsItsTurn: over the kubelet's next try, and no longer than that may take.
func TestAPodKeepsItsTurn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		away  time.Duration // between the kubelet's two tries
		given bool          // its turn comes while it is away
		first string
	}{
		{name: "it comes back", away: 15 * time.Second, first: "early"},
		{name: "it comes back when it was its turn", away: 15 * time.Second, given: true, first: "early"},
		{name: "it stays away", away: hold + time.Second, first: "late"},
		{name: "it stays away when it was its turn", away: hold + time.Second, given: true, first: "late"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newSemaphore(1)
				g.hold = hold
				leave, err := g.acquire(t.Context(), &cri.PodSandboxMetadata{Namespace: "a", Uid: "first"})
				if err != nil {
					t.Fatal(err)
				}
				booted := make(chan string, 2)
				boot := func(uid string) error {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					leave, err := g.acquire(ctx, &cri.PodSandboxMetadata{Namespace: "a", Uid: uid})
					if err == nil {
						booted <- uid
						leave()
					}
					return err
				}
				if err := boot("early"); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "keeps its turn") {
					t.Fatalf("a Pod that has waited for long: %v", err)
				}
				late := make(chan error)
				go func() {
					late <- nil
					leave, err := g.acquire(t.Context(), &cri.PodSandboxMetadata{Namespace: "a", Uid: "late"})
					if err == nil {
						booted <- "late"
						leave()
					}
					late <- err
				}()
				<-late
				if tt.given {
					leave()
				}
				time.Sleep(tt.away)
				go boot("early") //nolint:errcheck // booted has it
				synctest.Wait()
				leave()
				if got := <-booted; got != tt.first {
					t.Errorf("%s booted first, want %s", got, tt.first)
				}
				<-booted
				if err := <-late; err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if len(g.list()) != 0 || len(g.kept) != 0 {
					t.Errorf("left over: %v, %v", g.list(), g.kept)
				}
			})
		})
	}
}

// TestAttackABurstOfPods: a tenant starts many Pods at once, and another one a single Pod.
func TestAttackABurstOfPods(t *testing.T) {
	attack.Try(t, "T6", "a burst of Pods before that of a neighbour", func(t *testing.T) attack.Outcome {
		synctest.Test(t, func(t *testing.T) {
			g, turns := newSemaphore(1), make(chan string, 100)
			boot := func(namespace string) {
				if leave, err := g.acquire(context.Background(), of(namespace)); err == nil {
					time.Sleep(time.Second)
					turns <- namespace
					leave()
				}
			}
			for range 50 {
				go boot("greedy")
				synctest.Wait()
			}
			go boot("neighbour")
			for i := range 3 {
				if <-turns == "neighbour" {
					t.Logf("it was boot %d", i+1)
					break
				} else if i == 2 {
					t.Error("the neighbour's Pod waits behind the burst")
				}
			}
			for range 50 - 2 {
				<-turns
			}
			time.Sleep(time.Minute)
		})
		return attack.Contained
	})
}

func (u *upstream) RunPodSandbox(ctx context.Context, _ *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	made := make(chan struct{})
	u.boots <- made
	select {
	case <-made:
	case <-ctx.Done():
	}
	return &cri.RunPodSandboxResponse{PodSandboxId: "made"}, nil
}

func TestSandboxesAreMadeInTurn(t *testing.T) {
	client, up, _ := start(t)
	limit := places(vmm.AccelKVM, runtime.NumCPU())
	ended := make(chan error, limit+1)
	for range limit + 1 {
		go func() {
			_, err := client.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{})
			ended <- err
		}()
	}
	first := <-up.boots
	for range limit - 1 {
		defer close(<-up.boots)
	}
	select {
	case <-up.boots:
		t.Fatalf("more than %d sandboxes are made at once", limit)
	case <-time.After(100 * time.Millisecond):
	}
	close(first)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	defer close(<-up.boots)
}

func TestSlowBootGivesItsPlaceUp(t *testing.T) {
	g := newSemaphore(1)
	g.hold = time.Millisecond
	leave, err := g.acquire(t.Context(), of("a"))
	if err != nil {
		t.Fatal(err)
	}
	g.hold = time.Hour
	if _, err := g.acquire(t.Context(), of("a")); err != nil {
		t.Fatalf("enter while a boot does not end = %v, want its place", err)
	}
	leave() // its place is gone already; it must not free the other's
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := g.acquire(late, of("a")); err == nil {
		t.Error("two places are taken, want the second boot's alone")
	}
}

func TestCallsPassThrough(t *testing.T) {
	client, _, _ := start(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "caller", "kubelet")
	if got, err := client.Version(ctx, &cri.VersionRequest{Version: "v1"}); err != nil || got.GetVersion() != "v1" || got.GetRuntimeName() != "[kubelet]" {
		t.Errorf("Version = %v, %v; want the request's version and metadata", got, err)
	}
	_, err := client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: "x"})
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no container x" {
		t.Errorf("StopContainer = %v, want the status of upstream", err)
	}
	if _, err := client.Status(ctx, &cri.StatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that upstream does not know = %v, want Unimplemented", err)
	}
}

func TestStreamsPassThrough(t *testing.T) {
	client, _, _ := start(t)
	events, err := client.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", "b"} {
		if got, err := events.Recv(); err != nil || got.GetContainerId() != want {
			t.Errorf("event = %v, %v; want %s", got, err, want)
		}
	}
	if _, err := events.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("end of the stream = %v, want the status of upstream", err)
	}
}

func TestCreateContainerNamesTheTarget(t *testing.T) {
	client, up, _ := start(t)
	target := func(mode cri.NamespaceMode, id string) *cri.LinuxContainerConfig {
		return &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: mode, TargetId: id},
		}}
	}
	tests := []struct {
		name   string
		config *cri.ContainerConfig
		want   string
	}{
		{"a target", &cri.ContainerConfig{Linux: target(cri.NamespaceMode_TARGET, "other")}, "other"},
		{"no target", &cri.ContainerConfig{Linux: target(cri.NamespaceMode_CONTAINER, "")}, ""},
		{"a forged annotation", &cri.ContainerConfig{Annotations: map[string]string{contract.PIDTarget: "other"}}, ""},
		{"nothing", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := client.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: "box", Config: tt.config})
			if err != nil || got.GetContainerId() != "made" {
				t.Fatalf("CreateContainer = %v, %v", got, err)
			}
			if req := <-up.created; req.GetPodSandboxId() != "box" || req.GetConfig().GetAnnotations()[contract.PIDTarget] != tt.want {
				t.Errorf("upstream got %v, want the target %q", req, tt.want)
			}
		})
	}
}

func TestPortForwardOfOtherSandboxesIsContainerds(t *testing.T) {
	client, _, _ := start(t)
	for _, id := range []string{"runc-pod", "../../etc", ""} {
		got, err := client.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: id, Port: []int32{80}})
		if err != nil || got.GetUrl() != "containerd's" {
			t.Errorf("PortForward of %q = %v, %v; want upstream's answer", id, got, err)
		}
	}
}

// guest plays nodeless-vmm and the guest behind it: port 80 echoes until the client has said everything and then
// says "end", every other one is refused.
func guest(t *testing.T, dir, sandbox string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, sandbox), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, sandbox, contract.AgentSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
}

func echo(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != contract.Connect(contract.ForwardPort) {
		return
	}
	port := make([]byte, 2)
	fmt.Fprint(c, contract.Connected(contract.ForwardPort))
	if _, err := io.ReadFull(r, port); err != nil {
		return
	}
	if port[0] != 0 || port[1] != 80 {
		c.Write([]byte{0}) //nolint:errcheck // a fake
		return
	}
	c.Write([]byte{1})                 //nolint:errcheck // a fake
	for length := make([]byte, 2); ; { // frames, up to an empty one
		if _, err := io.ReadFull(r, length); err != nil || length[0] == 0 && length[1] == 0 {
			break
		}
		io.CopyN(c, r, int64(length[0])<<8|int64(length[1])) //nolint:errcheck // a fake
	}
	io.WriteString(c, "end")
}

func TestForwarding(t *testing.T) {
	dir := t.TempDir()
	guest(t, dir, "box")
	f := &forwarder{guests: dialer{dir: dir}, log: slog.New(slog.DiscardHandler)}
	client, stream := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- f.PortForward(t.Context(), "box", 80, halfClosable{stream}); stream.Close() }()
	if _, err := io.WriteString(client, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "ping" {
		t.Errorf("answer = %q, %v", got, err)
	}
	if _, err := client.Write([]byte{eot}); err != nil {
		t.Fatal(err)
	}
	// What the Pod says after the client's last word still arrives.
	if rest, err := io.ReadAll(client); err != nil || string(rest) != "end" {
		t.Errorf("rest = %q, %v; want what the Pod said last", rest, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("PortForward = %v", err)
	}
}

const eot = 4

// halfClosable ends reading at a byte of its own: net.Pipe has no half-close.
type halfClosable struct{ net.Conn }

func (h halfClosable) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if n > 0 && p[n-1] == eot {
		return n - 1, io.EOF
	}
	return n, err
}

func TestForwardingIsRefused(t *testing.T) {
	dir := t.TempDir()
	guest(t, dir, "box")
	f := &forwarder{guests: dialer{dir: dir}, log: slog.New(slog.DiscardHandler)}
	_, stream := net.Pipe()
	if err := f.PortForward(t.Context(), "box", 81, stream); !errors.Is(err, agentmux.ErrRefused) {
		t.Errorf("a port that nobody listens on: %v, want %v", err, agentmux.ErrRefused)
	}
	for _, port := range []int32{0, -1, 65536} {
		if err := f.PortForward(t.Context(), "box", port, stream); err == nil {
			t.Errorf("port %d was accepted", port)
		}
	}
	if err := f.PortForward(t.Context(), "gone", 80, stream); err == nil {
		t.Error("a sandbox without a microVM was accepted")
	}
}

func TestSilentPodIsGivenUpAfterTheClientsLastWord(t *testing.T) {
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	client, stream := net.Pipe()
	go client.Write([]byte{eot}) //nolint:errcheck // the end of it is not of interest
	_, err = join(agentmux.Forwarding{Conn: a}, halfClosable{stream}, 1)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("join = %v, want a time-out", err)
	}
}

// socketPair gives both ends of a connected unix socket.
func socketPair() (a, b *net.UnixConn, err error) {
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		return nil, nil, err
	}
	b, err = l.AcceptUnix()
	return a, b, err
}
