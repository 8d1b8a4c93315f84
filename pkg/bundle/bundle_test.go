package bundle_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/hint"
)

// The test binary plays two other parts, chosen by the environment: a process that unpacks, and a program of the
// bundle that runs until its standard input closes.
func TestMain(m *testing.M) {
	switch os.Getenv("BUNDLE_TEST_PART") {
	case "unpack":
		f, err := os.Open(os.Args[1])
		if err == nil {
			_, err = bundle.Unpack(f, os.Args[2])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "run":
		fmt.Println("running")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// release makes a file that ships, of a tree with the given files.
func release(t *testing.T, version string, files map[string][]byte) (path, hash string) {
	t.Helper()
	tree := t.TempDir()
	for name, content := range files {
		full := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return packTree(t, tree, version)
}

func packTree(t *testing.T, tree, version string) (path, hash string) {
	t.Helper()
	list, err := bundle.Scan(tree)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bundle.Manifest{Version: version, Files: list}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, bundle.ManifestName), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	front := []byte("the launcher stands here")
	out := bytes.NewBuffer(bytes.Clone(front))
	trailer, err := bundle.Pack(tree, out, int64(len(front)))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "nodeless")
	if err := os.WriteFile(path, out.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, trailer.Hash
}

func unpack(t *testing.T, path, bundles string) (string, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return bundle.Unpack(f, bundles)
}

func mustUnpack(t *testing.T, path, bundles string) string {
	t.Helper()
	dir, err := unpack(t, path, bundles)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// noise is content that does not compress.
func noise(seed uint64, size int) []byte {
	b := make([]byte, size)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = src.Read(b)
	return b
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestUnpackGivesTheTreeBack(t *testing.T) {
	tree := t.TempDir()
	for _, dir := range []string{"bin", "guest"} {
		if err := os.Mkdir(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, content []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(tree, name), content, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/nodeless", noise(1, 100_000), 0o755)
	write("empty", nil, 0o644)
	if err := os.Link(filepath.Join(tree, "bin/nodeless"), filepath.Join(tree, "bin/other-name")); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(tree, "guest/disk"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 3 << 30
	at := int64(1<<30 + 12345)
	if err := errors.Join(sparse.Truncate(size), writeAt(sparse, "in the middle", at), writeAt(sparse, "end", size-3), sparse.Close()); err != nil {
		t.Fatal(err)
	}
	path, hash := packTree(t, tree, "v1")
	bundles := filepath.Join(t.TempDir(), "data", "bundle")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := mustUnpack(t, path, bundles)

	if want := filepath.Join(bundles, hash); dir != want {
		t.Errorf("unpacked to %s, want %s", dir, want)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "bin/nodeless")); err != nil || !bytes.Equal(got, noise(1, 100_000)) {
		t.Errorf("bin/nodeless differs (%v)", err)
	}
	for name, mode := range map[string]fs.FileMode{"bin/nodeless": 0o755, "bin/other-name": 0o755, "empty": 0o644, "bin": fs.ModeDir | 0o700, "bundle.json": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("mode of %s = %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	one, _ := os.Stat(filepath.Join(dir, "bin/nodeless"))
	two, _ := os.Stat(filepath.Join(dir, "bin/other-name"))
	if !os.SameFile(one, two) {
		t.Error("two names of one file became two files")
	}
	disk, err := os.Open(filepath.Join(dir, "guest/disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	info, _ := disk.Stat()
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || blocks > 1<<20 {
		t.Errorf("disk has size %d and takes %d bytes, want %d and next to nothing", info.Size(), blocks, size)
	}
	got := make([]byte, 13)
	if _, err := disk.ReadAt(got, at); err != nil || string(got) != "in the middle" {
		t.Errorf("disk holds %q, %v", got, err)
	}
	if err := bundle.Verify(dir); err != nil {
		t.Error(err)
	}
}

func writeAt(f *os.File, s string, at int64) error {
	_, err := f.WriteAt([]byte(s), at)
	return err
}

func TestDamagedFileIsRefused(t *testing.T) {
	path, _ := release(t, "v1", map[string][]byte{"bin/nodeless": noise(1, 300_000), "guest/vmlinux": noise(2, 300_000)})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	tests := []struct {
		name    string
		content []byte
	}{
		{name: "bit flipped in the manifest", content: flip(60)},
		{name: "bit flipped in a file", content: flip(len(whole) / 2)},
		{name: "bit flipped in the trailer's checksum", content: flip(len(whole) - 60)},
		{name: "bit flipped in the trailer's length", content: flip(len(whole) - 80)},
		{name: "truncated", content: whole[:len(whole)-1]},
		{name: "truncated half-way", content: whole[:len(whole)/2]},
		{name: "empty", content: nil},
		{name: "middle cut out", content: append(bytes.Clone(whole[:1000]), whole[2000:]...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "nodeless")
			if err := os.WriteFile(bad, tt.content, 0o755); err != nil {
				t.Fatal(err)
			}
			bundles := filepath.Join(t.TempDir(), "bundle")
			_, err := unpack(t, bad, bundles)
			if err == nil {
				t.Fatal("unpacking succeeded")
			}
			if do := strings.Join(hint.Of(err), "; "); !strings.Contains(do, "download it anew") || !strings.Contains(err.Error(), bad) {
				t.Errorf("error = %v, hint = %q; want the file's name and what to do", err, do)
			}
			if exists(bundles) {
				if diff := cmp.Diff([]string{".lock"}, names(t, bundles)); diff != "" {
					t.Errorf("left behind (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestChangedPartIsNamed(t *testing.T) {
	path, _ := release(t, "v1", map[string][]byte{"bin/nodeless": noise(1, 5000), "guest/vmlinux": noise(2, 5000)})
	tests := []struct {
		name   string
		change func(file string) error
	}{
		{name: "a byte changed, time kept", change: func(file string) error {
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			b := noise(2, 5000)
			b[17] ^= 1
			return errors.Join(os.WriteFile(file, b, 0o755), os.Chtimes(file, time.Time{}, info.ModTime()))
		}},
		{name: "shorter", change: func(file string) error { return os.Truncate(file, 4999) }},
		{name: "gone", change: os.Remove},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bundles := filepath.Join(t.TempDir(), "bundle")
			dir := mustUnpack(t, path, bundles)
			file := filepath.Join(dir, "guest/vmlinux")
			if err := tt.change(file); err != nil {
				t.Fatal(err)
			}
			err := bundle.Verify(dir)
			if err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("Verify = %v, want an error that names %s", err, file)
			}
			if do := strings.Join(hint.Of(err), "; "); !strings.Contains(do, "remove "+dir) {
				t.Errorf("hint = %q, want what to remove", do)
			}
			if strings.Contains(tt.name, "time kept") {
				return // only the hash tells
			}
			if _, err := unpack(t, path, bundles); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("Unpack = %v, want an error that names %s", err, file)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := bundle.Verify(mustUnpack(t, path, bundles)); err != nil {
				t.Errorf("after following the hint: %v", err)
			}
		})
	}
}

func TestTouchedFileIsNoDamage(t *testing.T) {
	path, _ := release(t, "v1", map[string][]byte{"bin/nodeless": noise(1, 5000)})
	bundles := filepath.Join(t.TempDir(), "bundle")
	dir := mustUnpack(t, path, bundles)
	if err := os.Chtimes(filepath.Join(dir, "bin/nodeless"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if again := mustUnpack(t, path, bundles); again != dir {
		t.Errorf("unpacked to %s, want %s", again, dir)
	}
}

func TestManyProcessesUnpackOnce(t *testing.T) {
	path, hash := release(t, "v1", map[string][]byte{"bin/nodeless": noise(1, 4<<20), "guest/vmlinux": noise(2, 4<<20)})
	bundles := filepath.Join(t.TempDir(), "bundle")
	var all []*exec.Cmd
	for range 8 {
		cmd := exec.Command(os.Args[0], path, bundles)
		cmd.Env = append(os.Environ(), "BUNDLE_TEST_PART=unpack")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Errorf("a process failed: %v", err)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values([]string{".lock", hash, "current"})), names(t, bundles)); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
	if err := bundle.Verify(filepath.Join(bundles, hash)); err != nil {
		t.Error(err)
	}
}

func TestKilledUnpackLeavesNoHalfTree(t *testing.T) {
	files := map[string][]byte{}
	for i := range 40 {
		files[fmt.Sprintf("part%02d", i)] = noise(uint64(i), 1<<20)
	}
	path, hash := release(t, "v1", files)
	for _, after := range []int{1, 10, 30} {
		t.Run(fmt.Sprintf("after %d files", after), func(t *testing.T) {
			bundles := filepath.Join(t.TempDir(), "bundle")
			cmd := exec.Command(os.Args[0], path, bundles)
			cmd.Env = append(os.Environ(), "BUNDLE_TEST_PART=unpack")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			deadline := time.Now().Add(30 * time.Second)
			for {
				written, _ := filepath.Glob(filepath.Join(bundles, ".tmp-*", "part*"))
				done, _ := filepath.Glob(filepath.Join(bundles, hash))
				if len(written) >= after || len(done) > 0 || time.Now().After(deadline) {
					break
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if dir := filepath.Join(bundles, hash); exists(dir) {
				if err := bundle.Verify(dir); err != nil {
					t.Fatalf("a half tree got its name: %v", err)
				}
			}
			if err := bundle.Verify(mustUnpack(t, path, bundles)); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values([]string{".lock", hash, "current"})), names(t, bundles)); diff != "" {
				t.Errorf("folder (-want +got):\n%s", diff)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestUpgradeKeepsPreviousAndWhatRuns(t *testing.T) {
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bundles := filepath.Join(t.TempDir(), "bundle")
	first, firstHash := release(t, "v1", map[string][]byte{"bin/program": self})
	second, secondHash := release(t, "v2", map[string][]byte{"bin/program": noise(2, 100)})
	third, thirdHash := release(t, "v3", map[string][]byte{"bin/program": noise(3, 100)})
	fourth, fourthHash := release(t, "v4", map[string][]byte{"bin/program": noise(4, 100)})

	program := exec.Command(filepath.Join(mustUnpack(t, first, bundles), "bin/program"))
	program.Env = append(os.Environ(), "BUNDLE_TEST_PART=run")
	in, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	check := func(step, current, previous string, there ...string) {
		t.Helper()
		gotCurrent, _ := os.Readlink(filepath.Join(bundles, "current"))
		gotPrevious, _ := os.Readlink(filepath.Join(bundles, "previous"))
		if gotCurrent != current || gotPrevious != previous {
			t.Errorf("%s: current, previous = %q, %q; want %q, %q", step, gotCurrent, gotPrevious, current, previous)
		}
		got, _ := filepath.Glob(bundles + "/????????????????")
		var want []string
		for _, hash := range there {
			want = append(want, filepath.Join(bundles, hash))
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); diff != "" {
			t.Errorf("%s: bundles (-want +got):\n%s", step, diff)
		}
	}
	check("first", firstHash, "", firstHash)
	mustUnpack(t, second, bundles)
	check("second", secondHash, firstHash, firstHash, secondHash)
	mustUnpack(t, third, bundles)
	check("third, the first still runs", thirdHash, secondHash, firstHash, secondHash, thirdHash)
	removeUnused := func(want ...string) {
		t.Helper()
		got, err := bundle.RemoveUnused(bundles)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("removed: %v (-want +got):\n%s", err, diff)
		}
	}
	removeUnused(secondHash)
	check("unused ones removed, the first still runs", thirdHash, "", firstHash, thirdHash)
	mustUnpack(t, second, bundles)
	mustUnpack(t, third, bundles)
	if err := errors.Join(in.Close(), program.Wait()); err != nil {
		t.Fatal(err)
	}
	mustUnpack(t, fourth, bundles)
	check("fourth, the first has ended", fourthHash, thirdHash, thirdHash, fourthHash)
	mustUnpack(t, third, bundles)
	check("back to the third", thirdHash, fourthHash, thirdHash, fourthHash)
	removeUnused(fourthHash)
	removeUnused()
	check("unused ones removed", thirdHash, "", thirdHash)
}

// TestOtherFoldersAreLeftAlone: only what Unpack has made is removed.
func TestOtherFoldersAreLeftAlone(t *testing.T) {
	build := t.TempDir() // such as dist: no Unpack was here
	file, hash := release(t, "v1", map[string][]byte{"bin/program": noise(1, 100)})
	bundles := filepath.Join(t.TempDir(), "bundle")
	mustUnpack(t, file, bundles)
	for _, dir := range []string{filepath.Join(build, "0123456789abcdef"), filepath.Join(bundles, "my-backup-of-it1"), filepath.Join(bundles, "0123456789abcde")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{build, bundles, filepath.Join(build, "none")} {
		if removed, err := bundle.RemoveUnused(folder); err != nil || removed != nil {
			t.Errorf("%s: removed %v, %v", folder, removed, err)
		}
	}
	if got := names(t, bundles); !slices.Contains(got, "my-backup-of-it1") || !slices.Contains(got, hash) {
		t.Errorf("left: %v", got)
	}
}

func TestManifestCannotLeaveItsTree(t *testing.T) {
	tests := []struct {
		name string
		file bundle.File
	}{
		{name: "parent folder", file: bundle.File{Path: "../evil"}},
		{name: "absolute", file: bundle.File{Path: "/etc/passwd"}},
		{name: "the marker", file: bundle.File{Path: ".unpacked"}},
		{name: "the manifest", file: bundle.File{Path: "bundle.json"}},
		{name: "link to a file that is not listed", file: bundle.File{Path: "a", Link: "../b"}},
		{name: "extent behind the end", file: bundle.File{Path: "a", Size: 10, Extents: []bundle.Extent{{Offset: 5, Length: 6}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if raw, err := (bundle.Manifest{Files: []bundle.File{tt.file}}).Encode(); err == nil {
				t.Errorf("accepted:\n%s", raw)
			}
		})
	}
}

func TestUnwritableFolderSaysWhatToDo(t *testing.T) {
	path, _ := release(t, "v1", map[string][]byte{"a": []byte("a")})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := unpack(t, path, filepath.Join(file, "bundle"))
	if do := strings.Join(hint.Of(err), "; "); !strings.Contains(do, "--data-dir") {
		t.Errorf("error = %v, hint = %q; want one that names --data-dir", err, do)
	}
}

// BenchmarkLaterStart measures what each start pays when the bundle is there: some 300 files.
func BenchmarkLaterStart(b *testing.B) {
	tree := b.TempDir()
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("f%d", i)), []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	list, err := bundle.Scan(tree)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := bundle.Manifest{Files: list}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	out, err := os.Create(filepath.Join(b.TempDir(), "nodeless"))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, bundle.ManifestName), raw, 0o644); err != nil {
		b.Fatal(err)
	}
	if _, err := bundle.Pack(tree, out, 0); err != nil {
		b.Fatal(err)
	}
	bundles := filepath.Join(b.TempDir(), "bundle")
	for b.Loop() {
		if _, err := bundle.Unpack(out, bundles); err != nil {
			b.Fatal(err)
		}
	}
}
