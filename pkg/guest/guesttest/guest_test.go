package guesttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// noInput is what the shim sends as the port of an input that nobody is at.
const noInput = 1<<32 - 1

// TestGuest walks through a sandbox's life in one VM; the steps build on each other.
func TestGuest(t *testing.T) {
	v := boot(t)
	t.Logf("QEMU start to agent: %v", v.booted.Round(time.Millisecond))
	slot := v.plug(t, image(t), true)
	steps := []struct {
		name string
		run  func(*testing.T, *vm, string)
	}{
		{"check and details", testDetails},
		{"network comes twice", testNetwork},
		{"sandbox", testSandbox},
		{"pause container runs nothing", testPause},
		{"output and exit status", testOutput},
		{"exec", testExec},
		{"stdin", testStdin},
		{"nobody at the input", testNoInput},
		{"removed while it is created", testRemovedEarly},
		{"privileges that were given up", testNoNewPrivileges},
		{"terminal", testTerminal},
		{"terminal of a container", testTerminalContainer},
		{"seccomp", testSeccomp},
		{"flood", testFlood},
		{"kill", testKill},
		{"fifty quick exits", testQuickExits},
		{"fifty quick execs", testQuickExecs},
		{"orphans are reaped", testOrphans},
		{"limits and stats", testLimits},
		{"a small CPU limit does not hold up the start", testQuota},
		{"out of memory", testOOM},
		{"clock", testClock},
		{"privileged", testPrivileged},
		{"signals", testSignals},
		{"freeze", testFreeze},
		{"shared PID namespace", testSharedPID},
		{"volumes", testVolumes},
		{"devices are guarded", testDevices},
		{"second connection", testSecondConnection},
		{"destroy", testDestroy},
	}
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) { s.run(t, v, slot) })
	}
}

func testDetails(t *testing.T, v *vm, _ string) {
	c, err := v.Check(t.Context(), &pb.CheckRequest{})
	if err != nil || c.Status != pb.HealthCheckResponse_SERVING {
		t.Fatalf("check = %v, %v", c, err)
	}
	d, err := v.GetGuestDetails(t.Context(), &pb.GuestDetailsRequest{MemBlockSize: true})
	if err != nil || d.MemBlockSizeBytes == 0 || !d.AgentDetails.InitDaemon {
		t.Errorf("details = %v, %v", d, err)
	}
	if _, err := v.GetMetrics(t.Context(), &pb.GetMetricsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("metrics = %v, want Unimplemented", err)
	}
}

func testNetwork(t *testing.T, v *vm, _ string) {
	iface := &protocols.Interface{
		Device: "eth0", Name: "eth0", HwAddr: guestMAC, Mtu: 1450,
		IPAddresses: []*protocols.IPAddress{{Address: "10.42.0.7", Mask: "32"}},
	}
	routes := &pb.Routes{Routes: []*protocols.Route{
		{Gateway: "10.42.0.1", Device: "eth0"},
		{Dest: "10.42.0.1/32", Device: "eth0", Scope: 253},
	}}
	for range 2 {
		if _, err := v.UpdateInterface(t.Context(), &pb.UpdateInterfaceRequest{Interface: iface}); err != nil {
			t.Fatal(err)
		}
		r, err := v.UpdateRoutes(t.Context(), &pb.UpdateRoutesRequest{Routes: routes})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Routes) < 2 {
			t.Errorf("routes = %v", r.Routes)
		}
	}
	// The gateway route alone: the agent must find it on the link.
	alone := &pb.Routes{Routes: []*protocols.Route{{Gateway: "10.42.0.1", Device: "eth0"}}}
	if _, err := v.UpdateRoutes(t.Context(), &pb.UpdateRoutesRequest{Routes: alone}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.UpdateRoutes(t.Context(), &pb.UpdateRoutesRequest{Routes: routes}); err != nil {
		t.Fatal(err)
	}
	l, err := v.ListInterfaces(t.Context(), &pb.ListInterfacesRequest{})
	if err != nil || len(l.Interfaces) != 1 || l.Interfaces[0].Name != "eth0" || l.Interfaces[0].Mtu != 1450 {
		t.Errorf("interfaces = %v, %v", l, err)
	}
	n := &pb.ARPNeighbors{ARPNeighbors: []*protocols.ARPNeighbor{{
		ToIPAddress: &protocols.IPAddress{Address: "10.42.0.1"}, Device: "eth0", Lladdr: "02:00:00:00:00:01", State: 0x80,
	}}}
	if _, err := v.AddARPNeighbors(t.Context(), &pb.AddARPNeighborsRequest{Neighbors: n}); err != nil {
		t.Error(err)
	}
}

func testSandbox(t *testing.T, v *vm, _ string) {
	_, err := v.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{
		Hostname: "pod-a", Dns: []string{"nameserver 10.43.0.10", "search svc.cluster.local"}, SandboxId: "sandbox",
		Storages: []*pb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: root + "/sandbox/shm",
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testPause(t *testing.T, v *vm, _ string) {
	req := createRequest("sandbox", "1f", process("/pause")) // nothing is plugged in there
	req.OCI.Annotations["io.kubernetes.cri.container-type"] = "sandbox"
	req.OCI.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmni": "4097"}
	v.start(t, req)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := v.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: "sandbox"}); err == nil {
		t.Error("the pause container has ended by itself")
	}
	if _, err := v.StatsContainer(t.Context(), &pb.StatsContainerRequest{ContainerId: "sandbox"}); err != nil {
		t.Errorf("stats of the sandbox: %v", err)
	}
}

func testOutput(t *testing.T, v *vm, slot string) {
	begin := time.Now()
	v.start(t, createRequest("hello", slot, shell("echo hello; echo oops >&2; hostname; id -u; cat /proc/sys/kernel/shmmni; exit 3")))
	out, errOut := v.output(t, "hello", "", false), v.output(t, "hello", "hello", true)
	t.Logf("create to last output: %v", time.Since(begin).Round(time.Millisecond))
	if out != "hello\npod-a\n0\n4097\n" || errOut != "oops\n" {
		t.Errorf("stdout = %q, stderr = %q", out, errOut)
	}
	for range 2 {
		if got := v.wait(t, "hello", "hello"); got != 3 {
			t.Errorf("status = %d, want 3", got)
		}
	}
	v.signal(t, "hello", "", 9) // signalling what has ended is no error
	v.remove(t, "hello", "hello")
	if _, err := v.WaitProcess(t.Context(), &pb.WaitProcessRequest{ContainerId: "hello"}); status.Code(err) != codes.NotFound {
		t.Errorf("wait after removal = %v, want NotFound", err)
	}
	if _, err := v.CreateContainer(t.Context(), createRequest("bad", slot, process("/no/such/program"))); err == nil {
		t.Error("a container without its program was created")
	}
	v.remove(t, "bad")
}

func testExec(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("sleeper", slot, process("sleep", "1000")))
	out, code := v.exec(t, "sleeper", "e1", shell("echo in; ps -o pid,args; exit 7"))
	if code != 7 || !strings.HasPrefix(out, "in\n") || !strings.Contains(out, "sleep 1000") {
		t.Errorf("exec = %q, %d", out, code)
	}
	if strings.Contains(out, "init") {
		t.Errorf("the container sees the guest's processes:\n%s", out)
	}
	p := shell("id -u; id -G; pwd")
	p.User, p.Cwd = &pb.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{2000}}, "/tmp"
	p.Capabilities = &pb.LinuxCapabilities{}
	if out, code := v.exec(t, "sleeper", "e2", p); out != "1000\n1001 2000\n/tmp\n" || code != 0 {
		t.Errorf("exec as a user = %q, %d", out, code)
	}
	if _, err := v.ExecProcess(t.Context(), &pb.ExecProcessRequest{ContainerId: "sleeper", ExecId: "e3", Process: process("nothing")}); err == nil {
		t.Error("a missing program was executed")
	}
}

func testStdin(t *testing.T, v *vm, _ string) {
	if _, err := v.ExecProcess(t.Context(), &pb.ExecProcessRequest{ContainerId: "sleeper", ExecId: "in", Process: process("wc", "-c")}); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 300<<10)
	for len(data) > 0 {
		r, err := v.WriteStdin(t.Context(), &pb.WriteStreamRequest{ContainerId: "sleeper", ExecId: "in", Data: data})
		if err != nil {
			t.Fatal(err)
		}
		data = data[r.Len:]
	}
	if _, err := v.CloseStdin(t.Context(), &pb.CloseStdinRequest{ContainerId: "sleeper", ExecId: "in"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(v.output(t, "sleeper", "in", false)); got != "307200" {
		t.Errorf("wc = %q, want 307200", got)
	}
	if got := v.wait(t, "sleeper", "in"); got != 0 {
		t.Errorf("status = %d", got)
	}
}

// testNoInput: a program that reads an input nobody is at ends, whether it is a container's or executed in one.
func testNoInput(t *testing.T, v *vm, slot string) {
	const look = "readlink /proc/self/fd/0; cat; echo end"
	req := createRequest("unattended", slot, shell(look))
	req.StdinPort = noInput
	v.start(t, req)
	if got, code := v.output(t, "unattended", "", false), v.wait(t, "unattended", ""); got != "/dev/null\nend\n" || code != 0 {
		t.Errorf("a container with nobody at its input said %q and ended with %d", got, code)
	}
	v.remove(t, "unattended")
	exec := &pb.ExecProcessRequest{ContainerId: "sleeper", ExecId: "unattended", Process: shell(look), StdinPort: noInput}
	if _, err := v.ExecProcess(t.Context(), exec); err != nil {
		t.Fatal(err)
	}
	if got, code := v.output(t, "sleeper", "unattended", false), v.wait(t, "sleeper", "unattended"); got != "/dev/null\nend\n" || code != 0 {
		t.Errorf("a program executed with nobody at its input said %q and ended with %d", got, code)
	}
}

// testRemovedEarly: a container whose disk does not come holds up no other, and is gone as soon as it is removed.
func testRemovedEarly(t *testing.T, v *vm, slot string) {
	created := make(chan error, 1)
	go func() {
		_, err := v.CreateContainer(t.Context(), createRequest("early", "1f", process("true")))
		created <- err
	}()
	for removed := false; !removed; { // until it is being created
		if out, code := v.exec(t, "sleeper", fmt.Sprint("beside", time.Now().UnixNano()), shell("echo in")); out != "in\n" || code != 0 {
			t.Errorf("exec while a container is being created = %q, %d", out, code)
		}
		if _, err := v.RemoveContainer(t.Context(), &pb.RemoveContainerRequest{ContainerId: "early"}); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-created:
			if removed = true; status.Code(err) == codes.OK || !strings.Contains(err.Error(), "removed") {
				t.Errorf("the creation ended with %v, want to hear of the removal", err)
			}
		default:
		}
	}
	v.start(t, createRequest("early", slot, process("true")))
	v.remove(t, "early")
}

// testNoNewPrivileges: a program executed in a container that gave up new privileges cannot get any either.
func testNoNewPrivileges(t *testing.T, v *vm, slot string) {
	req := createRequest("modest", slot, process("sleep", "1000"))
	req.OCI.Process.NoNewPrivileges = true
	v.start(t, req)
	for _, in := range []struct{ container, want string }{{"modest", "1"}, {"sleeper", "0"}} {
		out, _ := v.exec(t, in.container, "privileges", shell("awk '/NoNewPrivs/ {print $2}' /proc/self/status"))
		if strings.TrimSpace(out) != in.want {
			t.Errorf("NoNewPrivs of what is executed in %s is %q, want %s", in.container, out, in.want)
		}
	}
	v.remove(t, "modest")
}

func testTerminal(t *testing.T, v *vm, _ string) {
	p := shell("tty; stty size; read line; echo got $line; stty size; exit 5")
	p.Terminal, p.ConsoleSize = true, &pb.Box{Height: 24, Width: 80}
	if _, err := v.ExecProcess(t.Context(), &pb.ExecProcessRequest{ContainerId: "sleeper", ExecId: "tty", Process: p}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.TtyWinResize(t.Context(), &pb.TtyWinResizeRequest{ContainerId: "sleeper", ExecId: "tty", Row: 50, Column: 132}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteStdin(t.Context(), &pb.WriteStreamRequest{ContainerId: "sleeper", ExecId: "tty", Data: []byte("typed\n")}); err != nil {
		t.Fatal(err)
	}
	out := v.output(t, "sleeper", "tty", false)
	if code := v.wait(t, "sleeper", "tty"); code != 5 {
		t.Errorf("status = %d, want 5", code)
	}
	for _, want := range []string{"/dev/pts/", "got typed", "50 132"} {
		if !strings.Contains(out, want) {
			t.Errorf("terminal output %q lacks %q", out, want)
		}
	}
}

// testTerminalContainer has the terminal as a container's own, not an exec's, and hangs up at its end.
func testTerminalContainer(t *testing.T, v *vm, slot string) {
	req := createRequest("term", slot, shell("stty -echo; echo ready; read line; echo $line; exit 2"))
	req.OCI.Process.Terminal = true
	v.start(t, req)
	for got := ""; got != "ready\r\n"; {
		r, err := v.ReadStdout(t.Context(), &pb.ReadStreamRequest{ContainerId: "term", Len: 100})
		if got += string(r.GetData()); err != nil || len(got) > len("ready\r\n") {
			t.Fatalf("read = %q, %v", got, err)
		}
	}
	if _, err := v.WriteStdin(t.Context(), &pb.WriteStreamRequest{ContainerId: "term", Data: []byte("line\n")}); err != nil {
		t.Fatal(err)
	}
	if out := v.output(t, "term", "", false); out != "line\r\n" {
		t.Errorf("output = %q", out)
	}
	if out := v.output(t, "term", "", true); out != "" {
		t.Errorf("stderr of a terminal = %q", out)
	}
	if got := v.wait(t, "term", ""); got != 2 {
		t.Errorf("status = %d, want 2", got)
	}
	v.remove(t, "term")
}

// testSeccomp forbids a system call.
func testSeccomp(t *testing.T, v *vm, slot string) {
	req := createRequest("filtered", slot, shell("mkdir /tmp/d; echo $?"))
	req.OCI.Linux.Seccomp = &pb.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64"}, Syscalls: []*pb.LinuxSyscall{{
		Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &pb.LinuxSyscall_Errnoret{Errnoret: 5},
	}}}
	v.start(t, req)
	out, errOut := v.output(t, "filtered", "", false), v.output(t, "filtered", "", true)
	if out != "1\n" || !strings.Contains(errOut, "Input/output error") {
		t.Errorf("mkdir = %q, %q", out, errOut)
	}
	v.remove(t, "filtered")
}

// testFlood writes more than any buffer holds, to a reader that comes late.
func testFlood(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("flood", slot, shell("dd if=/dev/zero bs=64k count=320 2>/dev/null | tr '\\0' '\\377'")))
	begin := time.Now()
	out := v.output(t, "flood", "", false)
	if len(out) != 20<<20 || strings.Trim(out, "\xff") != "" {
		t.Errorf("%d bytes came, want %d of 0xFF", len(out), 20<<20)
	}
	t.Logf("20 MB of the worst bytes: %v", time.Since(begin).Round(time.Millisecond))
	v.remove(t, "flood")
}

func testKill(t *testing.T, v *vm, _ string) {
	v.signal(t, "sleeper", "", 9)
	if got := v.wait(t, "sleeper", ""); got != 137 {
		t.Errorf("status = %d, want 137", got)
	}
	v.remove(t, "sleeper")
}

func testQuickExits(t *testing.T, v *vm, slot string) {
	var times, removals []time.Duration
	for i := range 50 {
		id := fmt.Sprintf("quick%d", i)
		begin := time.Now()
		v.start(t, createRequest(id, slot, shell(fmt.Sprintf("exit %d", i))))
		if got := v.wait(t, id, ""); got != int32(i) {
			t.Errorf("status of %s = %d", id, got)
		}
		ended := time.Since(begin)
		v.remove(t, id)
		times = append(times, ended)
		removals = append(removals, time.Since(begin)-ended)
	}
	slices.Sort(times)
	slices.Sort(removals)
	t.Logf("median of create, start, wait: %v; remove: %v", times[25].Round(time.Millisecond), removals[25].Round(time.Millisecond))
}

func testQuickExecs(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("busy", slot, process("sleep", "1000")))
	begin := time.Now()
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range 50 {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			exec := fmt.Sprintf("x%d", i)
			out, code := v.exec(t, "busy", exec, shell(fmt.Sprintf("echo %d; exit %d", i, i)))
			if code != int32(i) || out != fmt.Sprintf("%d\n", i) {
				t.Errorf("%s = %q, %d", exec, out, code)
			}
		})
	}
	wg.Wait()
	t.Logf("50 execs, 8 at once: %v", time.Since(begin).Round(time.Millisecond))
	v.signal(t, "busy", "", 9)
	v.wait(t, "busy", "")
	v.remove(t, "busy")
}

// testOrphans leaves processes behind in a container and in an exec; neither may change a status.
func testOrphans(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("forks", slot, shell("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; read line; exit 4")))
	for i := range 5 {
		out, code := v.exec(t, "forks", fmt.Sprintf("fork%d", i), shell("(sleep 0.05 >/dev/null &) ; exit 9"))
		if code != 9 || out != "" {
			t.Errorf("exec = %q, %d", out, code)
		}
	}
	if _, err := v.CloseStdin(t.Context(), &pb.CloseStdinRequest{ContainerId: "forks"}); err != nil {
		t.Error(err)
	}
	if got := v.wait(t, "forks", ""); got != 4 {
		t.Errorf("status = %d, want 4", got)
	}
	v.remove(t, "forks")
}

func testLimits(t *testing.T, v *vm, slot string) {
	req := createRequest("limited", slot, process("sleep", "1000"))
	req.OCI.Linux.Resources = &pb.LinuxResources{
		Memory: &pb.LinuxMemory{Limit: 64 << 20, Swap: 64 << 20},
		CPU:    &pb.LinuxCPU{Shares: 512, Quota: 50000, Period: 100000},
	}
	v.start(t, req)
	out, _ := v.exec(t, "limited", "cg", shell("cd /sys/fs/cgroup; cat memory.max cpu.max memory.oom.group"))
	if out != fmt.Sprintf("%d\n50000 100000\n1\n", 64<<20) {
		t.Errorf("limits in the container = %q", out)
	}
	v.exec(t, "limited", "work", shell("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/tmp/f bs=1M count=8 2>/dev/null"))
	s, err := v.StatsContainer(t.Context(), &pb.StatsContainerRequest{ContainerId: "limited"})
	if err != nil {
		t.Fatal(err)
	}
	m, c := s.CgroupStats.MemoryStats, s.CgroupStats.CpuStats
	if m.Usage.Limit != 64<<20 || m.Usage.Usage == 0 || m.Stats["cache"] < 8<<20 || c.CpuUsage.TotalUsage == 0 {
		t.Errorf("stats = %v", s)
	}
	if len(s.NetworkStats) == 0 || s.NetworkStats[0].Name != "eth0" {
		t.Errorf("network stats = %v", s.NetworkStats)
	}
	_, err = v.UpdateContainer(t.Context(), &pb.UpdateContainerRequest{ContainerId: "limited", Resources: &pb.LinuxResources{
		Memory: &pb.LinuxMemory{Limit: 96 << 20}, CPU: &pb.LinuxCPU{Quota: 70000},
	}})
	if err != nil {
		t.Fatal(err)
	}
	out, _ = v.exec(t, "limited", "cg2", shell("cd /sys/fs/cgroup; cat memory.max cpu.max"))
	if out != fmt.Sprintf("%d\n70000 100000\n", 96<<20) {
		t.Errorf("limits after the update = %q", out)
	}
	v.remove(t, "limited") // removal kills
}

// testQuota: the limit of CPU time is that of the container's own program, and making the container is not slower for it.
func testQuota(t *testing.T, v *vm, slot string) {
	took := map[int64]time.Duration{}
	for _, quota := range []int64{0, 1000} {
		req := createRequest("quota", slot, process("sleep", "1000"))
		req.OCI.Linux.Resources.CPU = &pb.LinuxCPU{Quota: quota, Period: 100000}
		began := time.Now()
		v.start(t, req)
		took[quota] = time.Since(began)
		v.remove(t, "quota")
	}
	if took[1000] > 4*took[0] {
		t.Errorf("a container took %s to start, one with 10m of CPU %s", took[0], took[1000])
	}
	req := createRequest("quota", slot, process("sleep", "1000"))
	req.OCI.Linux.Resources.CPU = &pb.LinuxCPU{Quota: 1000, Period: 100000}
	if _, err := v.CreateContainer(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	update := &pb.UpdateContainerRequest{ContainerId: "quota", Resources: &pb.LinuxResources{CPU: &pb.LinuxCPU{Quota: 70000}}}
	if _, err := v.UpdateContainer(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	if _, err := v.StartContainer(t.Context(), &pb.StartContainerRequest{ContainerId: "quota"}); err != nil {
		t.Fatal(err)
	}
	if out, _ := v.exec(t, "quota", "max", shell("cat /sys/fs/cgroup/cpu.max")); out != "70000 100000\n" {
		t.Errorf("the limit of a container that was changed before its start is %q", out)
	}
	v.remove(t, "quota")
}

func testOOM(t *testing.T, v *vm, slot string) {
	type event struct {
		id  string
		err error
	}
	events := make(chan event, 1)
	go func() {
		e, err := v.GetOOMEvent(t.Context(), &pb.GetOOMEventRequest{})
		events <- event{e.GetContainerId(), err}
	}()
	req := createRequest("hungry", slot, shell("echo start; x=a; while true; do x=$x$x; done"))
	req.OCI.Linux.Resources.Memory = &pb.LinuxMemory{Limit: 32 << 20, Swap: 32 << 20}
	v.start(t, req)
	if got := v.wait(t, "hungry", ""); got != 137 {
		t.Errorf("status = %d, want 137", got)
	}
	select {
	case e := <-events:
		if e.id != "hungry" || e.err != nil {
			t.Errorf("event = %v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("no out-of-memory event")
	}
	v.remove(t, "hungry")
}

func testFreeze(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("ticker", slot, shell("while true; do echo t; sleep 0.05; done")))
	if _, err := v.PauseContainer(t.Context(), &pb.PauseContainerRequest{ContainerId: "ticker"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ResumeContainer(t.Context(), &pb.ResumeContainerRequest{ContainerId: "ticker"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.PauseContainer(t.Context(), &pb.PauseContainerRequest{ContainerId: "ticker"}); err != nil {
		t.Fatal(err)
	}
	v.signal(t, "ticker", "", 9) // a frozen container dies too
	if got := v.wait(t, "ticker", ""); got != 137 {
		t.Errorf("status = %d, want 137", got)
	}
	v.remove(t, "ticker")
}

func testSharedPID(t *testing.T, v *vm, slot string) {
	for _, id := range []string{"one", "two"} {
		req := createRequest(id, slot, process("sleep", "77"+id[:1]))
		req.OCI.Process.Args = []string{"sh", "-c", "sleep 1234; true " + id}
		req.SandboxPidns = true
		v.start(t, req)
	}
	out, _ := v.exec(t, "one", "ps", shell("ps -o args"))
	if !strings.Contains(out, "true two") {
		t.Errorf("container one does not see two:\n%s", out)
	}
	if out, _ := v.exec(t, "one", "root", shell("ls /proc/1/root/ 2>&1; ls -l /proc/1/exe 2>&1")); strings.Contains(out, "modules") {
		t.Errorf("the holder of the PID namespace shows the guest's root:\n%s", out)
	}
	for _, id := range []string{"one", "two"} {
		v.signal(t, id, "", 9)
		if got := v.wait(t, id, ""); got != 137 {
			t.Errorf("status of %s = %d", id, got)
		}
		v.remove(t, id)
	}
}

func testVolumes(t *testing.T, v *vm, slot string) {
	files := map[string][]byte{"config": []byte("value\n")}
	for name, data := range files {
		_, err := v.CopyFile(t.Context(), &pb.CopyFileRequest{
			Path: root + "/shared/containers/vol-cm/" + name, FileSize: int64(len(data)), FileMode: 0o100644, DirMode: 0o755, Data: data,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := v.CopyFile(t.Context(), &pb.CopyFileRequest{
		Path: root + "/shared/containers/vol-cm/link", FileMode: 0o120777, DirMode: 0o755, Data: []byte("config"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.CopyFile(t.Context(), &pb.CopyFileRequest{Path: root + "/../../etc/x", FileMode: 0o100644}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("copy outside = %v, want InvalidArgument", err)
	}
	local := root + "/shared/containers/sandbox/rootfs/local/empty"
	memory := root + "/sandbox/ephemeral/mem"
	watch := root + "/shared/containers/watchable/cm"
	volumes := func(id, script string) *pb.CreateContainerRequest {
		req := createRequest(id, slot, shell(script))
		req.Storages = append(req.Storages,
			&pb.Storage{Driver: "local", Source: "local", Fstype: "local", MountPoint: local, Options: []string{"mode=0777"}},
			&pb.Storage{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: memory, Options: []string{"fsgid=2000"}},
			&pb.Storage{Driver: "watchable-bind", Source: root + "/shared/containers/vol-cm", MountPoint: watch, Options: []string{"bind"}})
		req.OCI.Mounts = append(req.OCI.Mounts,
			&pb.Mount{Destination: "/local", Type: "local", Source: local, Options: []string{"rbind", "rprivate", "rw"}},
			&pb.Mount{Destination: "/mem", Type: "bind", Source: memory, Options: []string{"rbind", "rprivate", "rw"}},
			&pb.Mount{Destination: "/cm", Type: "bind", Source: watch, Options: []string{"rbind", "rprivate", "ro"}})
		return req
	}
	v.start(t, volumes("writer", "echo a > /local/f; echo b > /mem/f; cat /cm/link; stat -c %g:%a /mem; (echo x > /cm/new) 2>/dev/null || echo read-only"))
	if out := v.output(t, "writer", "", false); out != "value\n2000:3777\nread-only\n" {
		t.Errorf("writer = %q", out)
	}
	v.remove(t, "writer")
	v.start(t, volumes("reader", "cat /local/f /mem/f"))
	if out := v.output(t, "reader", "", false); out != "a\nb\n" {
		t.Errorf("reader = %q: emptyDir did not survive its container", out)
	}
	v.remove(t, "reader")
	s, err := v.GetVolumeStats(t.Context(), &pb.VolumeStatsRequest{VolumeGuestPath: memory})
	if err != nil || len(s.Usage) != 2 || s.Usage[0].Total == 0 {
		t.Errorf("volume stats = %v, %v", s, err)
	}
}

func testDevices(t *testing.T, v *vm, slot string) {
	disk := v.plug(t, image(t), true)
	req := createRequest("blk", slot, shell("head -c 2 /dev/zero | wc -c; head -c 1028 /dev/xvda | tail -c 4 | hexdump -C; mknod /tmp/port c 248 1; cat /tmp/port 2>&1; ls -l /dev/xvda | cut -c1"))
	req.Devices = []*pb.Device{{Id: disk, Type: "blk", ContainerPath: "/dev/xvda", VmPath: "/dev/vda"}}
	req.OCI.Linux.Devices = []*pb.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 8, Minor: 1, FileMode: 0o660}}
	v.start(t, req)
	out := v.output(t, "blk", "", false)
	for _, want := range []string{"2\n", "e2 e1 f5 e0", "Operation not permitted", "b\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	v.remove(t, "blk")
}

func testSecondConnection(t *testing.T, v *vm, _ string) {
	c, err := v.session.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other := newHealth(c)
	if _, err := other.Check(t.Context(), &pb.CheckRequest{}); err != nil {
		t.Error(err)
	}
}

func testDestroy(t *testing.T, v *vm, _ string) {
	v.signal(t, "sandbox", "", 9)
	if got := v.wait(t, "sandbox", ""); got != 137 {
		t.Errorf("status of the pause container = %d", got)
	}
	if _, err := v.RemoveStaleVirtiofsShareMounts(t.Context(), &pb.RemoveStaleVirtiofsShareMountsRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := v.DestroySandbox(t.Context(), &pb.DestroySandboxRequest{}); err != nil {
		t.Error(err)
	}
}
