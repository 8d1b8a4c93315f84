package guesttest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/contract"
)

const (
	guestMAC  = "52:54:00:12:34:56"
	firstSlot = 8
	slots     = 4
)

// vm is a running microVM with an attached agent.
type vm struct {
	pb.AgentServiceService
	pb.HealthService
	session *agentmux.Session
	qmp     *qmp
	dir     string
	next    int
	qemu    *os.Process
	port    string        // socket of the agent's port
	booted  time.Duration // from QEMU's start to the agent's acknowledgement
}

// settings come from the environment, since the files are built elsewhere.
func setting(t *testing.T, name, fallback string) string {
	t.Helper()
	path := os.Getenv(name)
	if path == "" {
		path = fallback
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("skipped: %s: %v", name, err)
	}
	return path
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("skipped: this test runs %s: %v", n, err)
		}
	}
}

// boot starts a microVM with a scratch disk of 1 GiB; extra are further QEMU arguments.
func boot(t *testing.T, extra ...string) *vm {
	t.Helper()
	needVM(t)
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	run(t, "truncate", "-s", "1G", scratch)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", scratch)
	return bootOn(t, scratch, extra...)
}

func needVM(t *testing.T) {
	t.Helper()
	if os.Getenv("NODELESS_GUEST_VM") != "1" {
		t.Skip("skipped: boots a VM for some seconds; set NODELESS_GUEST_VM=1 to run it")
	}
	needTools(t, "mkfs.ext4", "mkfs.erofs", "busybox")
}

func bootOn(t *testing.T, scratch string, extra ...string) *vm {
	t.Helper()
	kernel := setting(t, "NODELESS_GUEST_KERNEL", "../../../dist/bundle/guest/vmlinux")
	initrd := setting(t, "NODELESS_GUEST_INITRD", "../../../dist/bundle/guest/initrd")
	v := &vm{dir: t.TempDir(), next: firstSlot}
	v.port = filepath.Join(v.dir, "agent")
	monitor := filepath.Join(v.dir, "qmp")
	args := []string{
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512",
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-serial", "file:" + filepath.Join(v.dir, "console"),
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable no_timer_check audit=0 apparmor=0 " +
			os.Getenv("NODELESS_GUEST_CMDLINE"),
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=ag,server=on,wait=off,path=" + v.port,
		"-device", "virtserialport,chardev=ag,name=agent",
		"-qmp", "unix:" + monitor + ",server=on,wait=off",
		"-drive", "if=none,id=scratch,format=raw,discard=unmap,file=" + scratch, // as pkg/vmm has it
		"-device", "virtio-blk-pci,drive=scratch,serial=scratch",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile=,mac=" + guestMAC,
	}
	for s := firstSlot; s < firstSlot+slots; s++ {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=rp%d,bus=pcie.0,addr=%#x,chassis=%d,slot=%d", s, s, s, s))
	}
	start := time.Now()
	v.spawn(t, append(args, extra...))
	v.qmp = dialQMP(t, monitor)
	v.attach(t)
	v.booted = time.Since(start)
	return v
}

// built is the bundle, whose QEMU and virtiofsd go with its kernel.
func built(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(setting(t, "NODELESS_BUNDLE", "../../../dist/bundle"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// packed is the command of a program of the bundle, which its own loader starts.
func packed(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	dir := filepath.Join(built(t), "qemu")
	lib := filepath.Join(dir, "lib")
	return exec.Command(filepath.Join(lib, "ld-linux-x86-64.so.2"), append([]string{"--library-path", lib, filepath.Join(dir, "bin", program)}, args...)...)
}

// spawn starts QEMU; it dies with the test.
func (v *vm) spawn(t *testing.T, args []string) {
	t.Helper()
	cmd := packed(t, "qemu-system-x86_64", append([]string{"-L", filepath.Join(built(t), "qemu", "share")}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.qemu = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		console, _ := os.ReadFile(filepath.Join(v.dir, "console"))
		if t.Failed() || os.Getenv("NODELESS_GUEST_CONSOLE") != "" {
			t.Logf("qemu: %s\nconsole:\n%s", stderr.String(), console)
		}
	})
}

// attach connects to the agent.
func (v *vm) attach(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := net.Dial("unix", v.port)
	if err != nil {
		t.Fatal(err)
	}
	if v.session, err = agentmux.Dial(ctx, conn, contract.Hello{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.session.Close() })
	stream, err := v.session.Open()
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(stream)
	v.AgentServiceService = pb.NewAgentServiceClient(client)
	v.HealthService = pb.NewHealthClient(client)
}

// plug adds a disk and returns its PCI path as Kata names it.
func (v *vm) plug(t *testing.T, image string, readonly bool) string {
	t.Helper()
	slot := v.next
	v.next++
	node := fmt.Sprintf("disk%d", slot)
	v.qmp.command(t, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": node, "read-only": readonly,
		"file": map[string]any{"driver": "file", "filename": image, "read-only": readonly},
	})
	v.qmp.command(t, "device_add", map[string]any{
		"driver": "virtio-blk-pci", "drive": node, "id": "dev" + node, "bus": fmt.Sprintf("rp%d", slot),
	})
	return fmt.Sprintf("%02x", slot)
}

// qmp is a connection to QEMU's monitor.
type qmp struct {
	conn net.Conn
	in   *bufio.Scanner
}

func dialQMP(t *testing.T, path string) *qmp {
	t.Helper()
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", path); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	q := &qmp{conn: conn, in: bufio.NewScanner(conn)}
	q.command(t, "qmp_capabilities", nil)
	return q
}

func (q *qmp) command(t *testing.T, name string, args any) {
	t.Helper()
	msg := map[string]any{"execute": name}
	if args != nil {
		msg["arguments"] = args
	}
	if err := json.NewEncoder(q.conn).Encode(msg); err != nil {
		t.Fatal(err)
	}
	for q.in.Scan() {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(q.in.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Error != nil {
			t.Fatalf("%s: %s", name, answer.Error.Desc)
		}
		if answer.Return != nil {
			return
		}
	}
	t.Fatalf("%s: monitor closed: %v", name, q.in.Err())
}

// image makes an EROFS image with busybox and all its applets.
func image(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "cp", busybox, filepath.Join(root, "bin/busybox"))
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	img := filepath.Join(dir, "layer.erofs")
	run(t, "mkfs.erofs", "--quiet", img, root)
	return img
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// cpuTime is what QEMU has used so far.
func (v *vm) cpuTime(t *testing.T) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.qemu.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')'):]))
	var user, system int64
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	return time.Duration(user+system) * tick
}

// newHealth makes a client on another connection.
func newHealth(c net.Conn) pb.HealthService { return pb.NewHealthClient(ttrpc.NewClient(c)) }
