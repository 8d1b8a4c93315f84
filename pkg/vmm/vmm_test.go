package vmm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/jail"
)

// parentEnv makes the test binary play the shim: it starts nodeless-vmm, says its pid and waits for it.
const parentEnv = "NODELESS_TEST_PARENT"

// besideEnv is what the shim starts first, a word a line; it inherits the shim's descriptor 3.
const besideEnv = "NODELESS_TEST_BESIDE"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == fakeQEMU {
		playQEMU()
		os.Exit(0)
	}
	if filepath.Base(os.Args[0]) == escapeName {
		if err := playEscape(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == jail.Argument {
		os.Exit(jail.Main(os.Args[2:]))
	}
	if prog := os.Getenv(parentEnv); prog != "" {
		if beside := os.Getenv(besideEnv); beside != "" {
			words := strings.Split(beside, "\n")
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Stderr, cmd.ExtraFiles = os.Stderr, []*os.File{os.NewFile(3, "socket")}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: contract.VirtiofsdNamespaces} // as the shim starts it
			if err := cmd.Start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		cmd := exec.Command(prog, os.Args[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(cmd.Process.Pid)
		_ = cmd.Wait()
		os.Exit(0)
	}
	flag.Parse()
	if most := flag.Lookup("test.parallel"); most.Value.String() == most.DefValue { // tests of hosts wait more than they work
		_ = most.Value.Set(strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))) // a number is what it takes
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir) // nothing where none was made
	os.Exit(code)
}

// host is a host with a bundle, on which microVMs can be started under emulation.
type host struct {
	cfg     HostConfig
	dir     string
	cfgPath string
	prog    string
	initrd  string
	// enter is what runs a VMM with its working folder elsewhere than here; nil for here.
	enter func(dir string) []string
	// beside is what the next shim starts besides the VMM, and with which descriptor.
	beside     []string
	besideFile *os.File
}

// built is where the programs that the tests' hosts run lie, once they are built; TestMain removes it.
var built struct {
	sync.Once
	dir string
	err error
}

// buildOnce builds the VMM, the wrapper of virtiofsd and the test guest.
func buildOnce() (dir string, err error) {
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "nodeless-vmm-test-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", built.dir, "../../cmd/nodeless-vmm", "../../cmd/nodeless-virtiofsd", "./internal/testguest")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, text)
		}
	})
	return built.dir, built.err
}

// needHost finds the bundle and builds the VMM and the test guest, or skips the test. Each test has folders of its own, so that most of
// them run beside each other.
func needHost(t testing.TB) *host {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: boots microVMs, not with -short")
	}
	bundle := os.Getenv("NODELESS_BUNDLE")
	if bundle == "" {
		bundle, _ = filepath.Abs("../../dist/bundle")
	}
	h := &host{dir: t.TempDir()}
	h.cfg = HostConfig{Bundle: bundle, Accel: AccelTCG, ScratchDir: h.dir + "/scratch", LogDir: h.dir + "/log", RecordDir: h.dir + "/lifespans"}
	for _, f := range []string{h.kernel(), bundle + "/guest/initrd", h.cfg.ScratchTemplate(), h.cfg.QEMUCommand()[0]} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("skipped: no bundle with QEMU and a guest kernel here: %v", err)
		}
	}
	h.cfg.TSCKHz, _, _ = TSCKHz()
	h.configure(t)
	programs, err := buildOnce()
	must(t, err)
	h.prog = filepath.Join(programs, "nodeless-vmm")
	guest, err := os.ReadFile(filepath.Join(programs, "testguest"))
	must(t, err)
	base, err := os.ReadFile(bundle + "/guest/initrd")
	must(t, err)
	h.initrd = h.dir + "/initrd"
	must(t, os.WriteFile(h.initrd, append(base, cpio("testguest", guest)...), 0o644))
	return h
}

// configure writes what VMMs read.
func (h *host) configure(t testing.TB) {
	t.Helper()
	raw, err := json.Marshal(h.cfg)
	must(t, err)
	h.cfgPath = h.dir + "/vmm.json"
	must(t, os.WriteFile(h.cfgPath, raw, 0o600))
}

func (h *host) kernel() string { return h.cfg.Bundle + "/guest/vmlinux" }

// cpio is an archive with one program; the kernel unpacks several archives one after the other.
func cpio(name string, content []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-b.Len()%4)%4))
		b.Write(content)
		b.Write(make([]byte, (4-b.Len()%4)%4))
	}
	entry(name, 0o100755, content)
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// guest is a started VMM, spoken to as Kata does.
type guest struct {
	t        *testing.T
	h        *host
	dir      string
	parent   *exec.Cmd
	pid      int
	http     *http.Client
	lastBody string
}

// launch starts a VMM under a parent of its own.
func (h *host) launch(t *testing.T, id string) *guest {
	t.Helper()
	g := &guest{t: t, h: h, dir: filepath.Join(h.dir, id)}
	must(t, os.MkdirAll(g.dir, 0o700))
	argv := []string{os.Args[0], "--api-socket", g.api()}
	if h.enter != nil {
		argv = append(h.enter(g.dir), argv...)
	}
	g.parent = exec.Command(argv[0], argv[1:]...)
	g.parent.Env = append(os.Environ(), parentEnv+"="+h.prog, contract.ConfigEnv+"="+h.cfgPath)
	if h.beside != nil {
		g.parent.Env = append(g.parent.Env, besideEnv+"="+strings.Join(h.beside, "\n"), "NODELESS_BUNDLE="+h.cfg.Bundle)
		g.parent.ExtraFiles = []*os.File{h.besideFile}
	}
	g.parent.Stderr = os.Stderr
	g.parent.Dir = g.dir // as the shim's is the bundle
	must(t, os.WriteFile(filepath.Join(g.dir, "config.json"), []byte(ociConfig), 0o600))
	out, err := g.parent.StdoutPipe()
	must(t, err)
	must(t, g.parent.Start())
	t.Cleanup(func() {
		_ = g.parent.Process.Kill()
		_ = g.parent.Wait()
		if g.pid > 0 {
			_ = syscall.Kill(g.pid, syscall.SIGKILL)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	g.pid, err = strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	g.http = &http.Client{Timeout: 10 * time.Minute, // vm.boot answers when the guest does, or cannot any more
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", g.api())
			}}}
	t.Cleanup(g.http.CloseIdleConnections)
	eventually(t, "the API answers", func() bool { return g.try("GET", "vmm.ping", nil, nil) == nil })
	return g
}

func (g *guest) api() string   { return filepath.Join(g.dir, "clh-api.sock") }
func (g *guest) agent() string { return filepath.Join(g.dir, "clh.sock") }

func (g *guest) try(method, call string, body, reply any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://localhost/api/v1/"+call, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	if reply != nil {
		return json.Unmarshal(text, reply)
	}
	return nil
}

func (g *guest) call(method, call string, body, reply any) {
	g.t.Helper()
	begun := time.Now()
	if err := g.try(method, call, body, reply); err != nil {
		log, _ := os.ReadFile(filepath.Join(g.h.cfg.LogDir, filepath.Base(g.dir)+".log"))
		g.t.Fatalf("%s %s: %v\nlog:\n%s", method, call, err, log)
	}
	g.t.Logf("%s took %v", call, time.Since(begun).Round(time.Millisecond))
}

type object = map[string]any

// config is what Kata sends, shortened by what the VMM ignores.
func (g *guest) config(extra string) object {
	return object{
		"cpus":   object{"boot_vcpus": 1, "max_vcpus": 2, "topology": object{"threads_per_core": 1}},
		"memory": object{"size": 256 * mib, "hotplug_size": 1024 * mib, "shared": true, "hugepages": false},
		"payload": object{"kernel": g.h.kernel(), "initramfs": g.h.initrd,
			"cmdline": "root=/dev/pmem0p1 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4 panic=1 no_timer_check noreplace-smp quiet rdinit=/testguest " + extra},
		"rng":    object{"src": "/dev/urandom"},
		"serial": object{"mode": "Off"}, "console": object{"mode": "Off"},
		"vsock": object{"cid": 3, "socket": g.agent()},
	}
}

// ask sends the test guest a question over a connection of its own.
func (g *guest) ask(question string) []string {
	g.t.Helper()
	c, err := net.Dial("unix", g.agent())
	must(g.t, err)
	defer c.Close()
	must(g.t, c.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprint(c, "CONNECT 1024\n")
	in := bufio.NewReader(c)
	if line, err := in.ReadString('\n'); line != "OK 1024\n" {
		g.t.Fatalf("handshake = %q, %v", line, err)
	}
	fmt.Fprintln(c, question)
	var lines []string
	for {
		line, err := in.ReadString('\n')
		must(g.t, err)
		if line == "\n" {
			return lines
		}
		lines = append(lines, strings.TrimSpace(line))
	}
}

// addNet sends the request and a tap's descriptor as Kata does.
func (g *guest) addNet(mac string, tap *os.File) {
	g.t.Helper()
	body, err := json.Marshal(object{"mac": mac, "iommu": false})
	must(g.t, err)
	req, err := http.NewRequest("PUT", "http://localhost/api/v1/vm.add-net", bytes.NewReader(body))
	must(g.t, err)
	req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	raw, err := httputil.DumpRequest(req, true)
	must(g.t, err)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.api(), Net: "unix"})
	must(g.t, err)
	defer c.Close()
	_, _, err = c.WriteMsgUnix(raw, unix.UnixRights(int(tap.Fd())), nil)
	must(g.t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	must(g.t, err)
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 && resp.StatusCode != 204 {
		g.t.Fatalf("vm.add-net: %s: %s", resp.Status, text)
	}
}

// qemu is the pid of the VMM's child.
func (g *guest) qemu() int {
	g.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", g.pid))
	must(g.t, err)
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for word := range strings.FieldsSeq(string(raw)) {
			pid, err := strconv.Atoi(word)
			must(g.t, err)
			return pid
		}
	}
	g.t.Fatal("the VMM has no child")
	return 0
}

// wantNothing checks that the VMM, its QEMU and all they made are gone.
func (g *guest) wantNothing(qemu int) {
	g.t.Helper()
	for _, pid := range []int{g.pid, qemu} {
		eventually(g.t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
	for _, f := range []string{g.api(), g.agent(), filepath.Join(g.h.cfg.ScratchDir, filepath.Base(g.dir)+".ext4")} {
		if _, err := os.Stat(f); err == nil {
			g.t.Errorf("%s is left over", f)
		}
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// openTap makes a tap device in a network namespace that lives as long as the device's descriptor.
func openTap(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result)
	go func() { // its thread, now in another namespace, ends with it
		f, err := tapInNewNamespace()
		made <- result{f, err}
	}()
	r := <-made
	if r.err != nil {
		t.Skipf("skipped: no tap device can be made here: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition that another process brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func has(list []string, want string) bool { return slices.Contains(list, want) }
