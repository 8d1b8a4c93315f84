package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/vfio"
	"github.com/nodeless/nodeless/pkg/vmm/qmp"
)

const (
	// hotplugBudget is how long a hot-plug is waited for; then it goes on by itself.
	hotplugBudget = 4 * time.Second
	// channelGrace is how long a guest that powers off may take after its agent has gone.
	channelGrace = 5 * time.Second
	// qmpTimeout bounds commands nobody waits for.
	qmpTimeout = time.Minute
)

// errState says that a call does not fit the state the microVM is in.
var errState = errors.New("not possible in this state")

// launching is how QEMU is started.
type launching struct {
	jailed starter
	settle func() error // gives up what only a start needs; nil in a process that has more to start
}

// vm is one microVM. Calls come from the REST API, several at once.
type vm struct {
	id      string
	sandbox string // folder of its OCI configuration
	cfg     HostConfig
	log     *slog.Logger
	agent   *agentChannel

	patience patience // with devices that are removed

	bootMu   sync.Mutex // held by create and boot
	resizeMu sync.Mutex // held by resize

	mu      sync.Mutex
	state   string                     // guarded by mu
	config  map[string]json.RawMessage // what Kata sent; guarded by mu
	spec    Spec                       // guarded by mu; fixed after boot except for sizes
	nets    []pendingNet               // NICs given before boot; guarded by mu
	nics    map[string]deviceInfo      // all NICs, by MAC address; guarded by mu
	slots   slots                      // guarded by mu
	devices map[string]*device         // hot-plugged, by id; guarded by mu
	nextID  int                        // guarded by mu
	// arriving are the DIMMs that the guest has been given and not taken in yet; guarded by mu
	arriving map[string]chan<- error
	proc     *process    // guarded by mu
	qmp      *qmp.Client // guarded by mu

	disk *keeper
	hostSide
	console *boundedLog
	ended   chan struct{} // closed when QEMU has ended and its log is complete
	reason  error         // why; read after ended
}

type pendingNet struct {
	mac   string
	files []*os.File
}

func newVM(id string, cfg HostConfig, log *slog.Logger) *vm {
	v := &vm{
		id: id, cfg: cfg, log: log, agent: newAgentChannel(log), state: stateNone,
		slots: newSlots(0, cfg.RootPorts), devices: map[string]*device{}, patience: usualPatience(),
		nics: map[string]deviceInfo{}, arriving: map[string]chan<- error{},
		hostSide: hostSide{launching: launching{jailed: by(jail.Self)}, sys: os.DirFS("/sys"), groups: vfio.Host()}, ended: make(chan struct{}),
	}
	v.disk = &keeper{v: v, bounds: Disk(cfg.Disk), shared: sharer{id: id}, volumes: volumePace{id: id, bounds: Disk(cfg.Disk), log: log}}
	return v
}

// create takes Kata's description, opens the agent socket and copies the scratch disk.
func (v *vm) create(body []byte) (err error) {
	v.bootMu.Lock()
	defer v.bootMu.Unlock()
	if v.currentState() != stateNone {
		return fmt.Errorf("create VM: %w", errState)
	}
	c, raw, err := parseVMConfig(body)
	if err != nil {
		return err
	}
	devices, err := v.takeDevices(c.Devices)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			v.letGo() // it may be asked for once more
		}
	}()
	if err := v.agent.listen(c.Vsock.Socket); err != nil {
		return err
	}
	if err := os.MkdirAll(v.cfg.LogDir, 0o700); err != nil {
		return fmt.Errorf("make log folder: %w", err)
	}
	if v.console, err = newBoundedLog(filepath.Join(v.cfg.LogDir, v.id+".console.log"), consoleLimit); err != nil {
		return err
	}
	if v.disk.scratch, err = v.newDisk(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spec, v.config, v.state = v.newSpec(c, devices), raw, stateCreated
	v.slots = newSlots(v.spec.cards(), v.spec.RootPorts)
	return nil
}

// newSpec decides how the microVM looks; the NICs come later.
func (v *vm) newSpec(c vmConfig, devices []HostDevice) Spec {
	s := Spec{
		Name: v.id, Accel: v.cfg.Accel, Debug: v.cfg.Debug, Firmware: v.cfg.FirmwareDir(),
		Kernel: filepath.Clean(c.Payload.Kernel), Initrd: filepath.Clean(c.Payload.Initramfs),
		Cmdline: KernelCommandLine(c.Payload.Cmdline, c.Cpus.BootVcpus, v.cfg),
		Memory:  c.Memory.Size, MaxMemory: maxMemory(c.Memory), SharedMemory: c.Memory.Shared && len(c.Fs) > 0,
		HugePages: c.Memory.Hugepages, VCPUs: c.Cpus.BootVcpus, MaxVCPUs: maxVCPUs(c.Cpus.BootVcpus),
		RootPorts: v.cfg.RootPorts, RootPortWindowMiB: v.cfg.RootPortWindowMiB, Devices: devices, FillThreads: fillThreads(devices),
		Disk: Disk(v.cfg.Disk), QMPFD: fdQMP, ConsoleFD: fdConsole, AgentFD: fdAgent,
	}
	for _, f := range c.Fs {
		s.Share = &ShareSpec{Tag: f.Tag, Socket: f.Socket, QueueSize: max(f.QueueSize, 128)}
	}
	return s
}

// maxMemory bounds what a guest can grow to. Kata offers the whole host; DIMMs that can never be needed
// would cost the guest page tables and boot time.
func maxMemory(m memoryConfig) int64 {
	const most = 8 // times the size at boot
	grown := min(m.HotplugSize, most*m.Size)
	if grown < m.Size+dimmBlock {
		return m.Size
	}
	return grown / dimmBlock * dimmBlock
}

// maxVCPUs is what a guest has, and can grow to use: each costs it memory. It may be more than the host has, since
// hosts give their CPUs several times. Kata's own bound is what it boots with.
func maxVCPUs(boot int) int {
	const extra = 7
	return boot + extra
}

// boot starts QEMU and waits for the guest's agent. It takes the time that it takes while the guest gets on (effort.go).
func (v *vm) boot(ctx context.Context) error {
	v.bootMu.Lock()
	defer v.bootMu.Unlock()
	if v.currentState() != stateCreated {
		return fmt.Errorf("boot VM: %w", errState)
	}
	begun := time.Now()
	v.mu.Lock()
	b := bootBounds(v.cfg.Accel).with(len(v.spec.Devices), v.spec.Memory)
	v.mu.Unlock()
	if err := v.start(ctx, b); err != nil {
		return fmt.Errorf("boot VM: %w", err)
	}
	v.log.Info("guest agent answered", "took", time.Since(begun).Round(time.Millisecond).String())
	return nil
}

// start runs QEMU and waits until the guest's agent answers. A QEMU that is given up is killed.
func (v *vm) start(ctx context.Context, b bounds) error {
	p, err := v.launch()
	if err != nil {
		return err
	}
	ctx, cancel := b.while(ctx, func() (effort, error) { return v.effort(p) })
	defer cancel()
	if err = v.greet(ctx, p); err == nil {
		select {
		case <-v.agent.ready:
			if err = v.checkPlaced(ctx); err != nil {
				p.kill()
				<-v.ended
			}
			return err
		case <-v.ended:
			return v.reason
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil { // QEMU has hung up, or talks nonsense
		p.kill()
		<-v.ended
		return explain(v.reason, len(v.given()))
	}
	text := v.console.digest()
	p.kill() // how it ends says nothing
	<-v.ended
	if text == "" {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w; guest console: %s", context.Cause(ctx), text)
}

// launch runs QEMU and follows what it says.
func (v *vm) launch() (*process, error) {
	v.mu.Lock()
	spec, extra := v.withNets(v.spec)
	v.mu.Unlock()
	spec, extra, err := v.withDisk(spec, extra)
	var p *process
	if err == nil {
		plan := v.cfg.plan(spec)
		v.log.Debug("starting qemu", "argv", plan.Argv, "user", plan.User)
		p, err = startQEMU(v.jailed, plan, extra)
	}
	closeFiles(extra)
	if err != nil {
		v.fail(err)
		return nil, err
	}
	if v.settle != nil {
		err = v.settle()
	}
	v.rank(p, spec.Memory)
	if err := errors.Join(err, v.record(p)); err != nil { // while QEMU starts up
		p.kill()
		<-p.done
		p.closeChannels()
		v.fail(err)
		return nil, err
	}
	v.mu.Lock()
	v.proc, v.spec, v.state, v.nets = p, spec, stateRunning, nil
	v.mu.Unlock()
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		v.readConsole(p.console)
	}()
	go v.watch(p, logged)
	return p, nil
}

// greet waits for QEMU's monitor. From then on the microVM can be changed, and its guest is listened to.
func (v *vm) greet(ctx context.Context, p *process) error {
	client, err := qmp.New(ctx, p.qmp, v.onEvent)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.qmp = client
	v.mu.Unlock()
	go v.holdAgent(p)
	v.disk.runs.Go(v.disk.keepRoom)
	return nil
}

// holdAgent keeps the agent's session. A guest that lost it can only be ended.
func (v *vm) holdAgent(p *process) {
	v.agent.attach(p.agent)
	select {
	case <-v.ended:
	case <-time.After(channelGrace):
		v.log.Error("agent channel is lost, ending the microVM")
		p.kill()
	}
}

// withNets adds the NICs that came before boot and the descriptors QEMU inherits for them.
func (v *vm) withNets(s Spec) (Spec, []*os.File) {
	var extra []*os.File
	for i, n := range v.nets {
		net := NetSpec{ID: fmt.Sprintf("net%d", i), MAC: n.mac}
		for _, f := range n.files {
			net.TapFDs = append(net.TapFDs, fdFirstFree+len(extra))
			extra = append(extra, f)
		}
		for _, f := range openVhost(v.cfg.Accel, vhostNet, len(n.files)) {
			net.VhostFDs = append(net.VhostFDs, fdFirstFree+len(extra))
			extra = append(extra, f)
		}
		s.Nets = append(s.Nets, net)
	}
	return s, extra
}

// withDisk adds the descriptors of the writable disk and of the shared folder, which QEMU inherits like those of the NICs.
func (v *vm) withDisk(s Spec, extra []*os.File) (Spec, []*os.File, error) {
	f, err := duplicate(v.disk.scratch.file)
	if err != nil {
		return s, extra, fmt.Errorf("hand over the scratch disk: %w", err)
	}
	s.ScratchFD = fdFirstFree + len(extra)
	extra = append(extra, f)
	if s.Share == nil {
		return s, extra, nil
	}
	c, err := connect(s.Share.Socket)
	if err != nil {
		return s, extra, fmt.Errorf("connect to virtiofsd: %w", err)
	}
	share := *s.Share
	share.FD = fdFirstFree + len(extra)
	s.Share = &share
	return s, append(extra, c), nil
}

// vhostNet is the kernel's network back end.
const vhostNet = "/dev/vhost-net"

// openVhost opens the kernel's network back end once per queue where hardware virtualisation can use it; QEMU, in its jail, gets it open.
// Without it QEMU moves the packets itself.
func openVhost(accel, path string, n int) []*os.File {
	if accel != AccelKVM {
		return nil
	}
	var files []*os.File
	for range n {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			closeFiles(files)
			return nil
		}
		files = append(files, f)
	}
	return files
}

// readConsole copies the guest's console into its log.
func (v *vm) readConsole(c *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			_, _ = v.console.Write(buf[:n]) // never fails
		}
		if err != nil {
			return
		}
	}
}

// watch notes the end of QEMU, once its console has been read to the end.
func (v *vm) watch(p *process, logged <-chan struct{}) {
	<-p.done
	select {
	case <-logged:
	case <-time.After(time.Second): // the console's other end is still open somewhere
	}
	err := p.cause()
	if text := v.console.digest(); text != "" {
		err = fmt.Errorf("%w; guest console: %s", err, text)
	}
	p.closeChannels()
	v.fail(err)
}

// fail makes the microVM's end known.
func (v *vm) fail(err error) {
	v.mu.Lock()
	v.state = stateShutdown
	v.mu.Unlock()
	v.reason = err
	v.agent.end()
	close(v.ended)
}

// shutdown ends QEMU. It may be called again.
func (v *vm) shutdown() {
	v.mu.Lock()
	p := v.proc
	v.mu.Unlock()
	if p == nil {
		return
	}
	// Kata gives this process three seconds and then kills it, with the end unwritten. So QEMU is not asked first: its guest has ended by
	// now or never will, and what it wrote is the host kernel's already.
	select {
	case <-p.done: // by itself; that it has ended is being written
	default:
		p.life.lastWord()
	}
	p.kill()
	<-p.done
	p.life.wait()
}

// cleanup removes what create and boot made. QEMU has ended.
func (v *vm) cleanup(keepLog bool) error {
	v.bootMu.Lock()
	defer v.bootMu.Unlock()
	v.shutdown() // a boot that was under way when the end came has finished by now
	v.mu.Lock()
	for _, n := range v.nets {
		closeFiles(n.files)
	}
	v.nets = nil
	v.mu.Unlock()
	v.letGo()
	errs := []error{v.agent.close(), v.disk.scratch.remove(), v.disk.forget()}
	if v.console != nil {
		errs = append(errs, v.console.drop(keepLog))
	}
	return errors.Join(errs...)
}

// info answers from memory alone: Kata waits one second.
func (v *vm) info() (infoReply, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state == stateNone {
		return infoReply{}, fmt.Errorf("describe VM: %w", errState)
	}
	return infoReply{Config: v.config, State: v.state, MemoryActualSize: v.spec.Memory}, nil
}

func (v *vm) currentState() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state
}

// onEvent runs on the QMP reader.
func (v *vm) onEvent(e qmp.Event) {
	v.log.Debug("qemu event", "event", e.Name, "data", string(e.Data))
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Name {
	case "BLOCK_IO_ERROR":
		v.disk.outOfRoom(e.Data)
	case "ACPI_DEVICE_OST":
		v.dimmArrived(e.Data)
	case "DEVICE_DELETED":
		v.deviceDeleted(e.Data)
	}
}

// deviceDeleted lets go who waits for a device to disappear; mu is held.
func (v *vm) deviceDeleted(raw json.RawMessage) {
	var data struct {
		Device string `json:"device"`
	}
	if err := json.Unmarshal(raw, &data); err != nil || data.Device == "" {
		return // an inner part of a device
	}
	v.deviceGone(data.Device)
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // only copies
	}
}
