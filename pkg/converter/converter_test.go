package converter

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	image "github.com/nodeless/nodeless/pkg/erofs"
	"github.com/nodeless/nodeless/pkg/memcg"
	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// TestMain lets the test program be the process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == convertMode || os.Args[1] == mergeMode) {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func runner(t *testing.T) *Runner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Runner{Program: self}
}

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	raw, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// names is a tar of so many empty files, made as it is read.
func names(n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		for i := range n {
			all := testregistry.Tar(testregistry.File(fmt.Sprintf("%03d/%d", i/1000, i), 0o644, ""))
			if _, err := w.Write(all[:512]); err != nil {
				return
			}
		}
		_, err := w.Write(make([]byte, 1024))
		_ = w.CloseWithError(err)
	}()
	return r
}

func squeeze(t *testing.T, format string, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if format == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&out, options...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestTheSameAsInProcess: the image and what is said of the tar are those of pkg/erofs, however the layer has come.
func TestTheSameAsInProcess(t *testing.T) {
	tar := testregistry.Tar(testregistry.Dir("d", 0o755), testregistry.File("d/f", 0o644, strings.Repeat("content ", 100_000)), testregistry.Symlink("l", "d/f"))
	want := newFile(t)
	if err := image.Convert(t.Context(), bytes.NewReader(tar), want, image.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	skip := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, squeeze(t, "zstd", tar)...)
	for name, layer := range map[string][]byte{"plain": tar, "gzip": squeeze(t, "gzip", tar), "zstd": squeeze(t, "zstd", tar), "zstd behind a frame to skip": skip} {
		out := newFile(t)
		got, err := runner(t).Convert(t.Context(), bytes.NewReader(layer), out, image.DefaultLimits())
		if err != nil || got != (Result{digest.FromBytes(tar), int64(len(tar))}) || !bytes.Equal(content(t, out), content(t, want)) {
			t.Errorf("%s: %v, %v, or another image", name, got, err)
		}
	}
	other := newFile(t)
	if err := image.Convert(t.Context(), bytes.NewReader(testregistry.Tar(testregistry.File("d/.wh.f", 0, ""))), other, image.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	layers, merged, out := []*os.File{want, other}, newFile(t), newFile(t)
	if err := image.Merge(t.Context(), layers, merged, image.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if err := runner(t).Merge(t.Context(), layers, out, image.DefaultLimits()); err != nil || !bytes.Equal(content(t, out), content(t, merged)) {
		t.Errorf("merge: %v, or another image", err)
	}
}

// TestProgram: what the bundle has is all that it takes.
func TestProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "nodeless-converter")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../cmd/nodeless-converter")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tar := testregistry.Tar(testregistry.File("f", 0o644, "x"))
	r := &Runner{Program: program}
	if got, err := r.Convert(t.Context(), bytes.NewReader(tar), newFile(t), image.DefaultLimits()); err != nil || got.Digest != digest.FromBytes(tar) {
		t.Errorf("convert = %v, %v", got, err)
	}
}

func TestWhatIsWrongWithALayer(t *testing.T) {
	again := testregistry.Tar(testregistry.File("again", 0o644, ""))[:512]
	window := squeeze(t, "zstd", bytes.Repeat([]byte("x"), 1<<20), zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	for name, tt := range map[string]struct {
		layer []byte
		kind  error
		word  string
	}{
		"no tar":               {bytes.Repeat([]byte("no tar "), 1000), image.ErrFormat, "read tar"},
		"a tar that is cut":    {again[:300], image.ErrFormat, "read tar"},
		"too many names":       {bytes.Repeat(again, 512<<10+1), image.ErrTooLarge, "again"},
		"a window of 256 MiB":  {window, nil, "window"},
		"a gzip that is empty": {[]byte{0x1f, 0x8b, 0x08, 0}, nil, "decompress"},
		"what follows the tar": {append(testregistry.Tar(), make([]byte, maxTail+1)...), image.ErrTooLarge, "behind the end"},
	} {
		_, err := runner(t).Convert(t.Context(), bytes.NewReader(tt.layer), newFile(t), image.DefaultLimits())
		if err == nil || tt.kind != nil && !errors.Is(err, tt.kind) || errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), tt.word) {
			t.Errorf("%s: %v, want %v with %q", name, err, tt.kind, tt.word)
		}
	}
	fault := errors.New("the disk is broken")
	_, err := runner(t).Convert(t.Context(), io.MultiReader(bytes.NewReader(again), errReader{fault}), newFile(t), image.DefaultLimits())
	if !errors.Is(err, fault) {
		t.Errorf("a layer that cannot be read: %v, want %v", err, fault)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestAProcessWaitsToGrow: it does not go on without its parent's word, and the parent's refusal is the end.
func TestAProcessWaitsToGrow(t *testing.T) {
	limits, asked := image.DefaultLimits(), 0
	limits.Grow = func() error { asked++; return nil }
	if _, err := runner(t).Convert(t.Context(), names(100), newFile(t), limits); err != nil || asked != 0 {
		t.Errorf("a small layer: %v, asked %d times", err, asked)
	}
	if _, err := runner(t).Convert(t.Context(), names(image.SmallNames+100), newFile(t), limits); err != nil || asked != 1 {
		t.Errorf("a large layer: %v, asked %d times", err, asked)
	}
	full := errors.New("no room")
	limits.Grow = func() error { return full }
	if _, err := runner(t).Convert(t.Context(), names(image.SmallNames+100), newFile(t), limits); !errors.Is(err, full) {
		t.Errorf("a layer that may not grow: %v, want %v", err, full)
	}
}

// TestAttackALayerThatEndsItsProcess: one layer takes more memory than there is. Its pull fails and says so. Another pull at the same
// time does not fail.
func TestAttackALayerThatEndsItsProcess(t *testing.T) {
	attack.Try(t, "T8", "a layer that its process dies of", func(t *testing.T) attack.Outcome {
		poor := runner(t)
		poor.Memory = 96 << 20
		limits := image.DefaultLimits()
		neighbours := make(chan error, 1)
		limits.Grow = func() error { // while the process is at it
			_, err := runner(t).Convert(t.Context(), names(100), newFile(t), image.DefaultLimits())
			neighbours <- err
			return nil
		}
		_, err := poor.Convert(t.Context(), names(500_000), newFile(t), limits)
		if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("convert = %v, want %v and of what", err, ErrEnded)
		}
		if err := <-neighbours; err != nil {
			t.Errorf("the neighbour's layer: %v", err)
		}
		return attack.Refused
	})
}

// TestAttackMemoryByALargeLayer: what a layer takes is taken of its process, and not of the parent's, which is containerd.
func TestAttackMemoryByALargeLayer(t *testing.T) {
	attack.Try(t, "T8", "a layer that containerd would have to hold in memory", func(t *testing.T) attack.Outcome {
		all := func(n int) []byte {
			tar, err := io.ReadAll(names(n))
			if err != nil {
				t.Fatal(err)
			}
			return tar
		}
		took := func(tar []byte) uint64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := runner(t).Convert(t.Context(), bytes.NewReader(tar), newFile(t), image.DefaultLimits()); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			return after.TotalAlloc - before.TotalAlloc
		}
		small, large := took(all(10)), took(all(200_000))
		if large > small+1<<20 {
			t.Errorf("a layer of 200,000 names takes %d bytes of its parent, one of 10 names %d", large, small)
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// begun converts a layer that does not end, and gives its process.
func begun(t *testing.T, ctx context.Context, r *Runner) (pid string, ended chan error) {
	t.Helper()
	in, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	ended = make(chan error, 1)
	go func() {
		_, err := r.Convert(ctx, in, newFile(t), image.DefaultLimits())
		_ = in.CloseWithError(err)
		ended <- err
	}()
	go func() { _, _ = w.Write(make([]byte, 100)) }() // and no more
	for {
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, task := range tasks {
			raw, _ := os.ReadFile(task)
			for _, pid := range strings.Fields(string(raw)) {
				status, _ := os.ReadFile("/proc/" + pid + "/status")
				if strings.Contains(string(status), "NoNewPrivs:\t1") && limit(pid, "Max file size") == fmt.Sprint(int64(maxImage)) {
					return pid, ended
				}
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}

// limit is one of /proc/PID/limits.
func limit(pid, what string) string {
	raw, _ := os.ReadFile("/proc/" + pid + "/limits")
	_, after, _ := strings.Cut(string(raw), what)
	return strings.Join(strings.Fields(after)[:min(1, len(strings.Fields(after)))], "")
}

// TestRights: what the process has given up before it reads of a layer.
func TestRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: who is not root has no rights to give up")
	}
	ctx, cancel := context.WithCancel(t.Context())
	pid, ended := begun(t, ctx, runner(t))
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("the process lacks %q:\n%s", want, status)
		}
	}
	if groups, _, _ := strings.Cut(strings.SplitN(string(status), "Groups:", 2)[1], "\n"); strings.TrimSpace(groups) != "" {
		t.Errorf("it is in the groups %q", groups)
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	if net, err := os.Readlink("/proc/" + pid + "/ns/net"); err != nil || net == own {
		t.Errorf("its network is %s, %v; ours is %s", net, err, own)
	}
	if root, err := os.Readlink("/proc/" + pid + "/root"); err != nil || root == "/" {
		t.Errorf("its root is %s, %v", root, err)
	}
	for what, want := range map[string]string{"Max core file size": "0", "Max data size": fmt.Sprint(int64(largeBound)), "Max address space": fmt.Sprint(int64(largeBound + addresses))} {
		if got := limit(pid, what); got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	files, _ := filepath.Glob("/proc/" + pid + "/fd/*")
	most, _ := strconv.Atoi(limit(pid, "Max open files"))
	handed := 0
	for _, file := range files {
		if n, err := strconv.Atoi(filepath.Base(file)); err != nil || n >= most {
			t.Errorf("%s is open, and the limit is %d", file, most)
		}
		if what, _ := os.Readlink(file); !strings.HasPrefix(what, "anon_inode:") {
			handed++
		}
	}
	if handed != layersFD {
		t.Errorf("it has %d files besides Go's own, want %d: %q", handed, layersFD, files)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("convert = %v, want %v", err, context.Canceled)
	}
}

// TestAProcessThatIsKilled: the conversion fails, and says of what.
func TestAProcessThatIsKilled(t *testing.T) {
	pid, ended := begun(t, t.Context(), runner(t))
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	in := time.After(time.Minute)
	select {
	case err := <-ended:
		if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("convert = %v, want %v", err, ErrEnded)
		}
	case <-in:
		t.Fatal("the conversion goes on without its process")
	}
}

// BenchmarkConvert compares a layer's conversion in a process of its own with one in this process: 4,000 files of 10 KiB, squeezed.
func BenchmarkConvert(b *testing.B) {
	var entries []testregistry.Entry
	for i := range 4000 {
		entries = append(entries, testregistry.File(fmt.Sprintf("usr/lib/%02d/%d", i/100, i), 0o644, strings.Repeat(fmt.Sprintf("line %d of a file\n", i*7919), 500)))
	}
	var squeezed bytes.Buffer
	w := gzip.NewWriter(&squeezed)
	if _, err := w.Write(testregistry.Tar(entries...)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	small := testregistry.Tar(testregistry.File("x", 0o644, "x"))
	r := &Runner{Program: os.Getenv("NODELESS_CONVERTER"), Cgroup: os.Getenv("NODELESS_CONVERTERS_CGROUP"), Bound: 1 << 30}
	if r.Program == "" {
		r.Program = "/proc/self/exe"
	}
	for name, layer := range map[string][]byte{"typical": squeezed.Bytes(), "tiny": small} {
		for where, do := range map[string]func(*os.File) error{
			"process": func(out *os.File) error {
				_, err := r.Convert(b.Context(), bytes.NewReader(layer), out, image.DefaultLimits())
				return err
			},
			"here": func(out *os.File) error { return convert(bytes.NewReader(layer), out, image.DefaultLimits()).err() },
		} {
			b.Run(name+"/"+where, func(b *testing.B) {
				for range b.N {
					out, err := os.CreateTemp(b.TempDir(), "")
					if err != nil {
						b.Fatal(err)
					}
					if err := errors.Join(do(out), out.Close()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// TestCgroup: the kernel's bound holds, its end is told, and no cgroup is left.
func TestCgroup(t *testing.T) {
	r := runner(t)
	r.Cgroup, r.Bound = fmt.Sprintf("/nodeless-test-converters-%d", os.Getpid()), 40<<20
	if err := r.Prepare(); err != nil {
		t.Skip("skipped: memory cannot be bounded here:", err)
	}
	group, err := memcg.Make("/proc/self/mountinfo", r.Cgroup, r.Bound)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := group.Remove(); err != nil { // which it only is when it is empty
			t.Error(err)
		}
	}()
	if _, err := r.Convert(t.Context(), names(100), newFile(t), image.DefaultLimits()); err != nil {
		t.Errorf("a small layer: %v", err)
	}
	if _, err := r.Convert(t.Context(), names(500_000), newFile(t), image.DefaultLimits()); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "more memory than a conversion may have") {
		t.Errorf("a large layer: %v, want %v and of what", err, ErrEnded)
	}
}
