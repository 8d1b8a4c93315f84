package virtiofsd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/contract/owners"
	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/tests/attack"
)

// daemonEnv has this test's program be the daemon.
const daemonEnv = "NODELESS_TEST_VIRTIOFSD"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == owners.Hold {
		owners.Holder(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	if os.Getenv(daemonEnv) != "" {
		fmt.Fprintln(os.Stderr, Exec(os.Args[1], os.Args[2:], os.Getenv(owners.TreesEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestWritesGoWhereTheRequestSays speaks to the bundled daemon as a guest's kernel does. A write of a page cache goes where its offset
// says, and one of a program to the end if its file is open to append now, whatever it was when it was opened.
func TestWritesGoWhereTheRequestSays(t *testing.T) {
	bundle := built(t)
	const page = 1 // FUSE_WRITE_CACHE
	const both, appending = unix.O_RDWR, unix.O_RDWR | unix.O_APPEND
	for i, tt := range []struct {
		name          string
		open, now, by int
		want          string
	}{
		{"a page of a file that is open to append", appending, appending, page, "12aaaaaa"},
		{"a page, which knows no flags of a file", appending, 0, page, "12aaaaaa"},
		{"a page of another file", both, both, page, "12aaaaaa"},
		{"an append", appending, appending, 0, "aaaaaaaa12"},
		{"an append since fcntl", both, appending, 0, "aaaaaaaa12"},
		{"no append since fcntl", appending, both, 0, "12aaaaaa"},
		{"no append", both, both, 0, "12aaaaaa"},
	} {
		for how, open := range map[string]func(*guest, int) uint64{"opened": (*guest).open, "created": (*guest).create} {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				dir := folder(t)
				file := filepath.Join(dir, "file")
				if how == "opened" {
					if err := os.WriteFile(file, []byte("aaaaaaaa"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				g := start(t, bundle, dir, i%2<<22) // FUSE_MAX_PAGES or not: the daemon's buffer is smaller then
				handle := open(g, tt.open)
				if how == "created" {
					if err := os.WriteFile(file, []byte("aaaaaaaa"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				g.write(handle, tt.by, tt.now, "12")
				if got, err := os.ReadFile(file); err != nil || string(got) != tt.want {
					t.Errorf("the file is %q, %v; want %q", got, err, tt.want)
				}
			})
		}
	}
}

// built is the bundle.
func built(t *testing.T) string {
	t.Helper()
	bundle, err := filepath.Abs("../../../dist/bundle")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bundle, "qemu/bin/virtiofsd")); err != nil || os.Geteuid() != 0 {
		t.Skip("skipped: no bundle (make build), or not root")
	}
	return bundle
}

// TestAttackRightsOfVirtiofsd reads of a running daemon what it would be for who has taken it over: who it is, what it may, and what of
// the host it sees. What it sees of a volume that is mounted later is no more than that.
func TestAttackRightsOfVirtiofsd(t *testing.T) {
	bundle := built(t)
	attack.Try(t, "T5", "who has taken over virtiofsd looks for rights, files and mounts of the host", func(t *testing.T) attack.Outcome {
		lookAtRights(t, bundle, folder(t))
		if t.Failed() {
			return attack.Succeeded
		}
		return attack.Refused
	})
}

func lookAtRights(t *testing.T, bundle, shared string) {
	t.Helper()
	if err := errors.Join(unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(shared, unix.MNT_DETACH) })
	if err := os.Mkdir(filepath.Join(shared, "volume"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := start(t, bundle, shared, 0)
	wantNamespaces(t, g.pid)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid))
	if err != nil {
		t.Fatal(err)
	}
	user := strconv.Itoa(owners.First + os.Getpid())
	want := map[string]string{
		"Uid": strings.Repeat(user+" ", 3) + user, "Gid": strings.Repeat(user+" ", 3) + user, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapEff": "00000000000000db", "CapPrm": "00000000000000db", "CapBnd": "0000000000000000",
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		if w, listed := want[name]; listed && strings.Join(strings.Fields(value), " ") != w {
			t.Errorf("%s is %q, want %q", name, value, w)
		}
	}
	mounts := func() []string {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", g.pid))
		if err != nil {
			t.Fatal(err)
		}
		var points []string
		for line := range strings.Lines(string(raw)) {
			points = append(points, strings.Fields(line)[1])
		}
		slices.Sort(points)
		return points
	}
	seen := []string{"/", "/proc", shared, filepath.Join(bundle, "qemu")}
	slices.Sort(seen)
	if diff := cmp.Diff(seen, mounts()); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	volume := filepath.Join(shared, "volume")
	if err := unix.Mount("volume", volume, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	seen = append(seen, volume)
	slices.Sort(seen)
	if diff := cmp.Diff(seen, mounts()); diff != "" {
		t.Errorf("mounts with a volume (-want +got):\n%s", diff)
	}
	if err := unix.Unmount(volume, 0); err != nil {
		t.Errorf("the volume is held: %v", err)
	}
}

// wantNamespaces: nothing that the daemon might change is the host's, and its capabilities are worth nothing there.
func wantNamespaces(t *testing.T, pid int) {
	t.Helper()
	for _, kind := range []string{"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		host, hostErr := os.Readlink("/proc/self/ns/" + kind)
		if err != nil || hostErr != nil || own == host {
			t.Errorf("the daemon is in %s, the host in %s (%v, %v)", own, host, err, hostErr)
		}
	}
}

// TestFilesBelongToWhomTheGuestSays, whoever the daemon is: on the disk, and as the guest sees them.
func TestFilesBelongToWhomTheGuestSays(t *testing.T) {
	bundle := built(t)
	for name, users := range map[string]*owners.Users{"users of its own": podsUsers(t), "root": nil} {
		for _, user := range []uint32{0, 1, 1000, 1000650000, 1<<31 - 1} {
			t.Run(fmt.Sprintf("%s, user %d", name, user), func(t *testing.T) {
				dir := folder(t)
				if err := errors.Join(os.Chmod(dir, 0o1777), os.WriteFile(filepath.Join(dir, "root"), nil, 0o600)); err != nil {
					t.Fatal(err)
				}
				g := startAs(t, users, bundle, dir, 0)
				if got := g.lookup("root"); got != 0 {
					t.Errorf("a file of the host's root belongs to %d in the guest", got)
				}
				g.user = user
				g.write(g.create(unix.O_RDWR), 0, 0, "x")
				if got := g.lookup("file"); got != user {
					t.Errorf("the file belongs to %d in the guest", got)
				}
				var st unix.Stat_t
				if err := unix.Stat(filepath.Join(dir, "file"), &st); err != nil || st.Uid != user || st.Gid != user {
					t.Errorf("on the disk it belongs to %d:%d, %v", st.Uid, st.Gid, err)
				}
			})
		}
	}
}

// TestAttackFilesThatAreNotShown: a file of the host's root that is not shown as the Pod's users' is out of the daemon's reach, though it
// has CAP_DAC_OVERRIDE and the path.
func TestAttackFilesThatAreNotShown(t *testing.T) {
	bundle, dir := built(t), folder(t)
	if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	attack.Try(t, "T5", "a guest opens a file of the host's root by a mount that is not mapped to its users", func(t *testing.T) attack.Outcome {
		g := start(t, bundle, dir, 0)
		if err := errors.Join(unix.Mount("inner", inner, "tmpfs", 0, ""), os.WriteFile(filepath.Join(inner, "file"), []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(inner, unix.MNT_DETACH) //nolint:errcheck // the folder's cleanup says it
		at := binary.LittleEndian.Uint64(g.call(1, 1, []byte("inner\x00"), nil, 128))
		file := binary.LittleEndian.Uint64(g.call(1, at, []byte("file\x00"), nil, 128))
		if err := g.try(14, file, words(unix.O_RDONLY, 0), nil, 16); err != unix.EACCES {
			t.Errorf("open = %v", err)
			return attack.Succeeded
		}
		return attack.Refused
	})
}

// folder is one whose name an option of the daemon can have.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "virtiofsd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Where things are in the guest's memory: rings of eight descriptors, and what they point at.
const (
	memorySize = 1 << 20
	address    = 0x10000000 // of the memory, as the daemon is told
	ringSize   = 8
	ringRoom   = 4096
	toDaemon   = 64 << 10
	fromDaemon = 128 << 10
)

// guest is the other end of the daemon's socket.
type guest struct {
	t      *testing.T
	conn   *net.UnixConn
	memory []byte
	kick   int // of the queue of requests
	sent   uint16
	node   uint64 // of the file
	pid    int    // of the daemon
	user   uint32 // who makes requests, and the group
}

// podsUsers are those that the shim makes for a Pod.
func podsUsers(t *testing.T) *owners.Users {
	t.Helper()
	users, err := owners.New(jail.Self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = users.Close() })
	return users
}

// start starts the daemon as the shim does, and connects to it.
func start(t *testing.T, bundle, dir string, maxPages int) *guest {
	t.Helper()
	return startAs(t, podsUsers(t), bundle, dir, maxPages)
}

// startAs starts it for users, or as root for nil.
func startAs(t *testing.T, users *owners.Users, bundle, dir string, maxPages int) *guest {
	t.Helper()
	socket := filepath.Join(folder(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(jail.Self, bundle, "--fd=3", "--shared-dir="+dir, "--cache=auto")
	cmd.Env = []string{daemonEnv + "=1"}
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = []*os.File{file}, &said, &said
	cmd.WaitDelay = 5 * time.Second
	if err := users.Start(cmd, contract.VirtiofsdNamespaces, filepath.Join(bundle, "qemu"), dir); errors.Is(err, owners.ErrUnknown) {
		t.Skipf("skipped: temporary files are on a file system that cannot be mapped: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := conn.Close() // it ends when its only guest has gone
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err = errors.Join(err, cmd.Wait()); t.Failed() {
			t.Logf("virtiofsd: %v\n%s", err, said.Bytes())
		}
	})
	g := &guest{t: t, conn: conn, node: 1, pid: cmd.Process.Pid}
	g.connect()
	g.call(26, 1, append(words(7, 36, 1<<17, uint32(maxPages)), make([]byte, 48)...), nil, 64)
	return g
}

// connect tells the daemon of the memory and of two queues: one for urgent things, one for requests.
func (g *guest) connect() {
	memory, err := unix.MemfdCreate("guest", 0)
	if err == nil {
		err = unix.Ftruncate(memory, memorySize)
	}
	if err == nil {
		g.memory, err = unix.Mmap(memory, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	defer unix.Close(memory)
	g.t.Cleanup(func() { _ = unix.Munmap(g.memory) })
	g.tell(3, nil)          // owner
	g.tell(2, longs(1<<32)) // features: version 1
	g.tell(5, append(words(1, 0), longs(0, memorySize, address, 0)...), memory)
	for queue := range uint32(2) {
		kick, err := unix.Eventfd(0, 0)
		if err != nil {
			g.t.Fatal(err)
		}
		call, err := unix.Eventfd(0, 0)
		if err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { _ = errors.Join(unix.Close(kick), unix.Close(call)) })
		at := uint64(address) + 3*ringRoom*uint64(queue)
		g.tell(8, words(queue, ringSize))
		g.tell(10, words(queue, 0))
		g.tell(9, append(words(queue, 0), longs(at, at+2*ringRoom, at+ringRoom, 0)...)) // descriptors, used, available
		g.tell(13, longs(uint64(queue)), call)
		g.tell(12, longs(uint64(queue)), kick)
		g.kick = kick
	}
	g.settle()
}

// settle waits for an answer (to GET_FEATURES), as QEMU does before it lets the guest use its queues: messages are taken in order, and the
// daemon gives up a queue that it is told of while it still prepares it.
func (g *guest) settle() {
	g.t.Helper()
	g.tell(1, nil)
	answer := make([]byte, 12+8)
	if _, err := io.ReadFull(g.conn, answer); err != nil {
		g.t.Fatal(fmt.Errorf("ask virtiofsd for its features: %w", err))
	}
}

// tell sends a message of the vhost-user protocol that has no answer.
func (g *guest) tell(kind uint32, payload []byte, files ...int) {
	g.t.Helper()
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if _, _, err := g.conn.WriteMsgUnix(append(words(kind, 1, uint32(len(payload))), payload...), rights, nil); err != nil {
		g.t.Fatal(err)
	}
}

// call makes a request of FUSE and gives the answer's size bytes, or those that came.
func (g *guest) call(opcode uint32, node uint64, args, data []byte, size int) []byte {
	g.t.Helper()
	if err := g.try(opcode, node, args, data, size); err != nil {
		g.t.Fatalf("request %d: %v", opcode, err)
	}
	answer := g.memory[fromDaemon:]
	return append([]byte{}, answer[answerHeader:binary.LittleEndian.Uint32(answer)]...)
}

// answerHeader is how many bytes come before an answer's own.
const answerHeader = 16

// try makes a request, and gives the error that it is answered with. The answer is in the memory.
func (g *guest) try(opcode uint32, node uint64, args, data []byte, size int) error {
	g.t.Helper()
	le, ring := binary.LittleEndian, g.memory[3*ringRoom:]
	request := append(words(uint32(40+len(args)+len(data)), opcode), longs(uint64(g.sent)+1, node)...)
	request = append(append(request, words(g.user, g.user, 1, 0)...), args...)
	copy(g.memory[toDaemon:], request)
	copy(g.memory[toDaemon+len(request):], data)
	next := uint16(0)
	describe := func(at, size int, flags uint16) {
		d := ring[16*int(next):]
		le.PutUint64(d, uint64(at))
		le.PutUint32(d[8:], uint32(size))
		le.PutUint16(d[12:], flags)
		next++
		le.PutUint16(d[14:], next)
	}
	describe(toDaemon, len(request), 1)
	if len(data) > 0 {
		describe(toDaemon+len(request), len(data), 1)
	}
	describe(fromDaemon, answerHeader+size, 2)
	available, used := ring[ringRoom:], ring[2*ringRoom:]
	le.PutUint16(available[4+2*(g.sent%ringSize):], 0)
	g.sent++
	le.PutUint16(available[2:], g.sent)
	if _, err := unix.Write(g.kick, longs(1)); err != nil {
		g.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); le.Uint16(used[2:]) != g.sent; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("request %d is not answered", opcode)
		}
	}
	answer := g.memory[fromDaemon:]
	if failed := int32(le.Uint32(answer[4:])); failed != 0 {
		return unix.Errno(-failed)
	}
	return nil
}

// lookup finds a file in the share, and tells whose it is.
func (g *guest) lookup(name string) uint32 {
	g.t.Helper()
	const user = 40 + 68 // fuse_entry_out, and in its fuse_attr
	return binary.LittleEndian.Uint32(g.call(1, 1, append([]byte(name), 0), nil, 128)[user:])
}

// open opens the file and gives its handle.
func (g *guest) open(flags int) uint64 {
	g.t.Helper()
	g.node = binary.LittleEndian.Uint64(g.call(1, 1, []byte("file\x00"), nil, 128))
	return binary.LittleEndian.Uint64(g.call(14, g.node, words(uint32(flags), 0), nil, 16))
}

// create makes the file and gives its handle.
func (g *guest) create(flags int) uint64 {
	g.t.Helper()
	answer := g.call(35, 1, append(words(uint32(flags|unix.O_CREAT), unix.S_IFREG|0o600, 0, 0), "file\x00"...), nil, 144)
	g.node = binary.LittleEndian.Uint64(answer)
	return binary.LittleEndian.Uint64(answer[128:])
}

// write writes at the file's begin.
func (g *guest) write(handle uint64, by, flags int, data string) {
	g.t.Helper()
	args := append(longs(handle, 0), words(uint32(len(data)), uint32(by))...)
	args = append(append(args, longs(0)...), words(uint32(flags), 0)...)
	if n := binary.LittleEndian.Uint32(g.call(16, g.node, args, []byte(data), 8)); int(n) != len(data) {
		g.t.Fatal(fmt.Errorf("%d bytes of %d are written", n, len(data)))
	}
}

func words(numbers ...uint32) (b []byte) {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func longs(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}
