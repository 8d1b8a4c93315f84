package jail

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// prisoner is the name by which the test binary plays what is started in a jail.
const prisoner = "prisoner"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Argument {
		os.Exit(Main(os.Args[2:]))
	}
	if filepath.Base(os.Args[0]) == prisoner {
		os.Exit(play(os.Args[1], os.Args[2:]))
	}
	os.Exit(m.Run())
}

// play is what the prisoner does.
func play(what string, args []string) int {
	switch what {
	case "tell":
		name, _ := os.Hostname()
		fmt.Println("pid", os.Getpid(), "uid", os.Getuid(), "gid", os.Getgid(), "host", name, "env", strings.Join(os.Environ(), " "), "args", strings.Join(args, " "))
		raw := make([]byte, 16)
		for fd := firstFile; fd < 20; fd++ {
			if n, err := unix.Pread(fd, raw, 0); err == nil {
				fmt.Printf("file %d %s\n", fd, raw[:n])
			}
		}
		for _, what := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC, unix.RLIMIT_CORE} {
			var limit unix.Rlimit
			_ = unix.Getrlimit(what, &limit) // shown as 0
			fmt.Println("limit", what, limit.Cur, limit.Max)
		}
	case "write":
		fmt.Println(os.WriteFile(args[0], []byte("from the jail"), 0o600))
	case "chown":
		fmt.Println(os.Chown(args[0], 7, 7))
	case "device":
		_, err := unix.Open(args[0], unix.O_RDWR, 0)
		fmt.Println(err)
	case "link":
		says, _ := os.Readlink(args[0]) // shown as ""
		_, err := os.ReadFile(args[0])
		fmt.Println(says, err)
	case "foreign": // the number of getpid among the x32 calls
		_, _, errno := unix.RawSyscall(firstForeign|unix.SYS_GETPID, 0, 0, 0)
		fmt.Println(errno)
	case "look":
		fmt.Println("ready")
		for range 1000 {
			if raw, err := os.ReadFile(args[0]); err == nil {
				fmt.Println(string(raw))
				return 0
			}
			time.Sleep(10 * time.Millisecond)
		}
	case "wait":
		fmt.Println("ready")
		time.Sleep(time.Hour)
	}
	return 0
}

// needRoot skips a test that makes a jail.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root, to make namespaces")
	}
}

// all are the system calls of a program in Go, and those that the prisoner is to try.
func all() Calls {
	var c Calls
	for call := uint32(0); call < 500; call++ {
		if call != unix.SYS_CLONE3 {
			c.Allow = append(c.Allow, call)
		}
	}
	return c
}

// plan is a jail for the prisoner, in a folder that it is shown.
func plan(t *testing.T, words ...string) (p Plan, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "a", "b")
	must(t, os.MkdirAll(dir, 0o755))
	self, err := os.ReadFile(Self)
	must(t, errors.Join(err, os.WriteFile(filepath.Join(dir, prisoner), self, 0o755)))
	return Plan{
		Argv: append([]string{filepath.Join(dir, prisoner)}, words...), Env: []string{"A=b"}, Name: "jail",
		Shown: []Shown{{Path: dir, Programs: true}}, User: 1_234_567, Calls: all(),
	}, dir
}

// run starts what is planned and gives what it said and how it ended.
func run(t *testing.T, p Plan, files ...*os.File) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := &exec.Cmd{Stdout: &out, Stderr: os.Stderr, ExtraFiles: files}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := Start(Self, cmd, p)
		if err == nil {
			err = cmd.Wait()
		}
		ended <- err
	}()
	err := <-ended
	return out.String(), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProgramHasWhatItIsGiven(t *testing.T) {
	needRoot(t)
	p, dir := plan(t, "tell", "a", "b c")
	p.Limits = []Limit{{unix.RLIMIT_NOFILE, 123}, {unix.RLIMIT_NPROC, 45}, {unix.RLIMIT_CORE, 0}}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("handed over"), 0o600))
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	leak, err := unix.Open(file, unix.O_RDONLY, 0) // not closed by exec: what somebody forgot
	must(t, err)
	defer unix.Close(leak)
	got, err := run(t, p, f)
	must(t, err)
	for _, want := range []string{
		"pid 1 uid 1234567 gid 1234567 host jail env A=b args a b c\n", "file 3 handed over\n",
		fmt.Sprintf("limit %d 123 123\n", unix.RLIMIT_NOFILE), fmt.Sprintf("limit %d 45 45\n", unix.RLIMIT_NPROC), fmt.Sprintf("limit %d 0 0\n", unix.RLIMIT_CORE),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it says %q, want %q in it", got, want)
		}
	}
	if strings.Count(got, "file ") != 1 {
		t.Errorf("it has other files than the one that it was given: %q", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("in the folder that it was shown are %v, %v", left, err)
	}
}

func TestShownFilesHaveTheRightsAskedFor(t *testing.T) {
	needRoot(t)
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.Mkdir(other, 0o777))
	must(t, os.Chmod(other, 0o777))
	p, dir := plan(t, "write", filepath.Join(other, "new"))
	must(t, os.Chmod(dir, 0o777))
	p.Shown = append(p.Shown, Shown{Path: other, Writable: true})
	if got, err := run(t, p); err != nil || got != "<nil>\n" {
		t.Errorf("to write to a writable folder: %q, %v", got, err)
	}
	raw, err := os.ReadFile(filepath.Join(other, "new"))
	if err != nil || string(raw) != "from the jail" {
		t.Errorf("the host reads %q, %v", raw, err)
	}
	p.Argv[2] = filepath.Join(dir, "new")
	if got, err := run(t, p); err != nil || !strings.Contains(got, "read-only file system") {
		t.Errorf("to write to another: %q, %v", got, err)
	}
	p.Shown[0].Programs = false
	if _, err := run(t, p); err == nil || !strings.Contains(err.Error(), "run "+p.Argv[0]+": permission denied") {
		t.Errorf("a program where there are none: %v", err)
	}
}

// TestMountsThatComeLater: what the host mounts on a folder that is shown with its mounts is seen in the jail, and nowhere else.
func TestMountsThatComeLater(t *testing.T) {
	needRoot(t)
	folder := filepath.Join(t.TempDir(), "shared")
	must(t, os.Mkdir(folder, 0o755))
	for _, shown := range []bool{true, false} {
		p, _ := plan(t, "look", folder+"/below/file")
		p.Shown = append(p.Shown, Shown{Path: folder, Mounts: shown})
		said := make(chan string)
		go func() { // on a thread with mounts of its own, which is thrown away
			runtime.LockOSThread()
			got, err := lookAtMount(p, folder)
			said <- fmt.Sprint(got, err)
		}()
		if got, want := <-said, map[bool]string{true: "mounted later\n<nil>", false: "<nil>"}[shown]; got != want {
			t.Errorf("with its mounts: %t: the program says %q, want %q", shown, got, want)
		}
	}
}

// lookAtMount starts a program that looks at a folder, and mounts something there.
func lookAtMount(p Plan, folder string) (string, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer read.Close()
	err = errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", folder, "tmpfs", 0, ""), unix.Mount("", folder, "", unix.MS_SHARED, ""), unix.Mkdir(folder+"/below", 0o755))
	cmd := &exec.Cmd{Stdout: write, Stderr: os.Stderr}
	if err == nil {
		err = Start(Self, cmd, p)
	}
	if err = errors.Join(err, write.Close()); err != nil {
		return "", err
	}
	lines := bufio.NewReader(read)
	if word, err := lines.ReadString('\n'); word != "ready\n" {
		return word, err
	}
	err = errors.Join(unix.Mount("none", folder+"/below", "tmpfs", 0, ""), os.WriteFile(folder+"/below/file", []byte("mounted later"), 0o644))
	time.AfterFunc(time.Second, func() { _ = cmd.Process.Kill() }) // it looks no longer than that
	rest, _ := lines.ReadString('\n')
	_ = cmd.Wait() // killed where there was nothing to see
	return rest, err
}

func TestCapabilitiesThatAreKept(t *testing.T) {
	needRoot(t)
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.Mkdir(other, 0o755))
	for _, tt := range []struct {
		user int
		kept []uintptr
		want string
	}{
		{user: 1_234_567, want: "operation not permitted"}, {user: 0, want: "operation not permitted"},
		{user: 1_234_567, kept: []uintptr{unix.CAP_CHOWN}, want: "<nil>"}, {user: 0, kept: []uintptr{unix.CAP_CHOWN}, want: "<nil>"},
	} {
		p, _ := plan(t, "chown", other)
		p.Shown = append(p.Shown, Shown{Path: other, Writable: true})
		p.User, p.Capabilities = tt.user, tt.kept
		if got, err := run(t, p); err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("user %d with %v changes an owner: %q, %v, want %q", tt.user, tt.kept, got, err, tt.want)
		}
	}
}

func TestDevicesOfTheJail(t *testing.T) {
	needRoot(t)
	p, _ := plan(t, "device", "/dev/zero")
	p.Devices = []string{"/dev/zero"}
	if got, err := run(t, p); err != nil || got != "<nil>\n" {
		t.Errorf("a device that it was given: %q, %v", got, err)
	}
	p.Argv[2] = "/dev/null"
	if got, err := run(t, p); err != nil || !strings.Contains(got, "no such file") {
		t.Errorf("another: %q, %v", got, err)
	}
}

// TestDevicesInAFolder: some devices are in folders of /dev.
func TestDevicesInAFolder(t *testing.T) {
	needRoot(t)
	const device = "/dev/net/tun"
	if _, err := os.Stat(device); err != nil {
		t.Skipf("skipped: no device in a folder of /dev here: %v", err)
	}
	p, _ := plan(t, "device", device)
	p.Devices = []string{"/dev/null", device}
	if got, err := run(t, p); err != nil || got != "<nil>\n" {
		t.Errorf("a device that it was given: %q, %v", got, err)
	}
	p.Devices = p.Devices[:1]
	if got, err := run(t, p); err != nil || !strings.Contains(got, "no such file") {
		t.Errorf("one that it was not given: %q, %v", got, err)
	}
}

func TestLinksOfTheJail(t *testing.T) {
	needRoot(t)
	p, _ := plan(t, "link", "/sys/a/b")
	p.Links = []Link{{"/sys/a/b", "../../etc/passwd"}, {"/sys/a/c", "5"}}
	if got, err := run(t, p); err != nil || got != "../../etc/passwd open /sys/a/b: no such file or directory\n" {
		t.Errorf("a link says and leads to %q, %v; want its text, and nothing", got, err)
	}
}

func TestForeignCallEndsTheProgram(t *testing.T) {
	needRoot(t)
	p, _ := plan(t, "foreign")
	got, err := run(t, p)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
		t.Errorf("it ended with %v and said %q, want SIGSYS", err, got)
	}
}

// TestProgramDiesWithTheThreadThatStartedIt, though it has become another user, which takes such a signal away.
func TestProgramDiesWithTheThreadThatStartedIt(t *testing.T) {
	needRoot(t)
	p, _ := plan(t, "wait")
	read, write, err := os.Pipe()
	must(t, err)
	cmd := &exec.Cmd{Stdout: write}
	started, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		started <- Start(Self, cmd, p)
		<-end
	}()
	must(t, <-started)
	must(t, write.Close())
	word := make([]byte, 8)
	if n, err := read.Read(word); err != nil || string(word[:n]) != "ready\n" {
		t.Fatalf("it says %q, %v", word[:n], err)
	}
	close(end)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v, want SIGKILL", err)
	}
}

func TestJailThatCannotBeMadeIsExplained(t *testing.T) {
	needRoot(t)
	for name, tt := range map[string]struct {
		change func(*Plan)
		want   string
	}{
		"a file that is not there":            {func(p *Plan) { p.Shown = append(p.Shown, Shown{Path: "/nonexistent"}) }, "show /nonexistent: no such file"},
		"a file that it may not read":         {func(p *Plan) { p.Shown = append(p.Shown, Shown{Path: secret(t)}) }, "has to be readable for every user"},
		"a program that is not there":         {func(p *Plan) { p.Argv[0] += "2" }, "run " + prisonerSuffix + ": no such file"},
		"a device that is not there":          {func(p *Plan) { p.Devices = []string{"/dev/nonexistent"} }, "find device /dev/nonexistent"},
		"a device that is none":               {func(p *Plan) { p.Devices = []string{"/dev/pts"} }, "is not a device"},
		"a path that leads elsewhere":         {func(p *Plan) { p.Shown[0].Path += "/.." }, "not absolute and clean"},
		"a folder of devices":                 {func(p *Plan) { p.Devices = []string{"/etc/passwd"} }, "is not in /dev"},
		"a device that is hidden":             {func(p *Plan) { p.Devices = []string{"/dev/../etc/passwd"} }, "is not in /dev"},
		"a link into what is shown":           {func(p *Plan) { p.Links = []Link{{p.Shown[0].Path + "/a", "b"}} }, "meets what is shown"},
		"a link that what is shown is behind": {func(p *Plan) { p.Links = []Link{{filepath.Dir(p.Shown[0].Path), "/etc"}} }, "meets what is shown"},
		"a link among the devices":            {func(p *Plan) { p.Links = []Link{{"/dev/a", "b"}} }, "meets what is shown"},
		"a link behind a link":                {func(p *Plan) { p.Links = []Link{{"/a", "/etc"}, {"/a/b", "c"}} }, "meets what is shown"},
		"a link twice":                        {func(p *Plan) { p.Links = []Link{{"/a", "b"}, {"/a", "c"}} }, "meets what is shown"},
		"a link that leads elsewhere":         {func(p *Plan) { p.Links = []Link{{"/a/../b", "c"}} }, "not absolute and clean"},
		"no filter":                           {func(p *Plan) { p.Calls = Calls{} }, "no system call is allowed"},
		"no program":                          {func(p *Plan) { p.Argv = nil }, "no program"},
		"a user that cannot be":               {func(p *Plan) { p.User = -1 }, "user -1"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := plan(t, "tell")
			tt.change(&p)
			got, err := run(t, p)
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), p.Shown[0].Path+"/"+prisoner+"2", prisonerSuffix), tt.want) || got != "" {
				t.Errorf("Start = %v, want %q; it said %q", err, tt.want, got)
			}
		})
	}
}

// prisonerSuffix stands for a path that differs from test to test.
const prisonerSuffix = "the prisoner"

func secret(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(path, nil, 0o600))
	return path
}

// TestHostWithoutNamespaces: nothing is started without a jail, and the operator is told what to do.
func TestHostWithoutNamespaces(t *testing.T) {
	p, _ := plan(t, "tell")
	cmd := &exec.Cmd{}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread has no rights from here on, and is thrown away
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &new([2]unix.CapUserData)[0]); err != nil {
			ended <- err
			return
		}
		ended <- Start(Self, cmd, p)
	}()
	err := <-ended
	if !errors.Is(err, unix.EPERM) || !errors.Is(err, errRefused) || len(hint.Of(err)) == 0 || cmd.Process != nil {
		t.Errorf("Start = %v with the hints %q; process: %v", err, hint.Of(err), cmd.Process)
	}
}

func TestMainWithoutAPlan(t *testing.T) {
	for _, args := range [][]string{nil, {"x"}, {"2"}, {"-1"}} {
		if code := Main(args); code == 0 {
			t.Errorf("Main(%q) = 0", args)
		}
	}
}

// verdict is what the kernel would do, by a machine that runs the filter. It reads most significant bytes first, as networks have them.
func verdict(t *testing.T, c Calls, arch, number uint32, args ...uint64) uint32 {
	t.Helper()
	filter, err := c.compile()
	must(t, err)
	var prog []bpf.Instruction
	for _, f := range filter {
		prog = append(prog, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	machine, err := bpf.NewVM(prog)
	must(t, err)
	data := make([]byte, argsAt+6*argLength)
	put := func(at int, v uint32) {
		data[at], data[at+1], data[at+2], data[at+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
	}
	put(numberAt, number)
	put(archAt, arch)
	for i, a := range args {
		put(argsAt+argLength*i, uint32(a))
	}
	got, err := machine.Run(data)
	must(t, err)
	return uint32(got)
}

func TestFilter(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skipf("skipped: the filter is for amd64, this is %s", runtime.GOARCH)
	}
	c := Calls{
		Allow: []uint32{1, 300}, Absent: []uint32{435},
		Only: []Only{{Call: 56, Bits: 0xf0f, Must: 0x101}, {Call: 157, Arg: 1, Values: []uint32{4, 7}}},
	}
	const ok, eperm, enosys = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	const native, i386 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	for _, tt := range []struct {
		name   string
		arch   uint32
		number uint32
		args   []uint64
		want   uint32
	}{
		{"the first that is allowed", native, 1, nil, ok}, {"the last", native, 300, nil, ok}, {"none of them", native, 2, nil, eperm},
		{"one that is absent", native, 435, nil, enosys},
		{"bits that are allowed, with those that must be", native, 56, []uint64{0x103}, ok}, {"without one of those", native, 56, []uint64{0x100}, eperm},
		{"without the other", native, 56, []uint64{0x001}, eperm}, {"with a bit too many", native, 56, []uint64{0x1101}, eperm},
		{"a value that is allowed", native, 157, []uint64{0, 7}, ok}, {"another", native, 157, []uint64{7, 5}, eperm},
		{"by another architecture", i386, 1, nil, unix.SECCOMP_RET_KILL_PROCESS}, {"of x32", native, firstForeign | 1, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{"of nobody", native, 0xffffffff, nil, unix.SECCOMP_RET_KILL_PROCESS},
	} {
		if got := verdict(t, c, tt.arch, tt.number, tt.args...); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

// TestNothingOfTheHostIsMounted: what the second stage mounts is not seen on the host, and goes with the program.
func TestNothingOfTheHostIsMounted(t *testing.T) {
	needRoot(t)
	list := func() []string {
		raw, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		return strings.Split(string(raw), "\n")
	}
	p, _ := plan(t, "tell")
	before := list()
	if _, err := run(t, p); err != nil {
		t.Fatal(err)
	}
	for _, m := range list() {
		if !slices.Contains(before, m) && strings.Contains(m, filepath.Dir(p.Shown[0].Path)) {
			t.Errorf("mounted on the host: %s", m)
		}
	}
}
