package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/bundle"
)

// The test binary also plays the main program in the bundle: it prints how it was started.
func TestMain(m *testing.M) {
	if from := os.Getenv("NODELESS_LAUNCHER"); from != "" {
		self, err := os.Executable()
		out, encodeErr := json.Marshal(started{Args: os.Args, Launcher: from, Self: self})
		if errors.Join(err, encodeErr) != nil {
			os.Exit(9)
		}
		fmt.Println(string(out))
		os.Exit(7)
	}
	os.Exit(m.Run())
}

type started struct {
	Args     []string
	Launcher string
	Self     string
}

// ship builds the launcher and puts a bundle behind it whose main program is this test binary.
func ship(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	launcher := filepath.Join(dir, "launcher")
	build := exec.Command("go", "build", "-o", launcher, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build launcher: %v\n%s", err, out)
	}
	tree := filepath.Join(dir, "tree")
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "bin"), 0o755), os.WriteFile(filepath.Join(tree, "bin/nodeless"), self, 0o755)); err != nil {
		t.Fatal(err)
	}
	files, err := bundle.Scan(tree)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bundle.Manifest{Version: "test", Files: files}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	front, err := os.ReadFile(launcher)
	if err = errors.Join(err, os.WriteFile(filepath.Join(tree, bundle.ManifestName), raw, 0o644)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "nodeless")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.Write(front)
	if err == nil {
		_, err = bundle.Pack(tree, out, int64(len(front)))
	}
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func call(t *testing.T, program string, env []string, args ...string) (started, string, int) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Args = args
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("start %s: %v, want the main program's exit code", program, err)
	}
	var got started
	if len(out) > 0 {
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("output %q: %v", out, err)
		}
	}
	return got, stderr.String(), exit.ExitCode()
}

func TestLauncherBecomesTheMainProgram(t *testing.T) {
	shipped := ship(t)
	data := filepath.Join(t.TempDir(), "data")
	for _, time := range []string{"first start", "later start"} {
		got, stderr, code := call(t, shipped, []string{"NODELESS_DATA_DIR=" + data}, "/some/where/kubectl", "get", "pods")
		want := started{Args: []string{"/some/where/kubectl", "get", "pods"}, Launcher: shipped, Self: got.Self}
		if diff := cmp.Diff(want, got); diff != "" || code != 7 {
			t.Errorf("%s: exit code %d, want 7; started (-want +got):\n%s\n%s", time, code, diff, stderr)
		}
		if dir := filepath.Join(data, "bundle"); !strings.HasPrefix(got.Self, dir+"/") || !strings.HasSuffix(got.Self, "/bin/nodeless") {
			t.Errorf("%s: main program is %s, want one below %s", time, got.Self, dir)
		}
	}
}

func TestTruncatedFileSaysWhatToDo(t *testing.T) {
	shipped := ship(t)
	info, err := os.Stat(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(shipped, info.Size()-1000); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := call(t, shipped, []string{"NODELESS_DATA_DIR=" + t.TempDir()}, "nodeless", "version")
	if code != 1 || !strings.Contains(stderr, "error: unpack "+shipped) || !strings.Contains(stderr, "hint: the nodeless file is damaged: download it anew") {
		t.Errorf("exit code %d, stderr:\n%s", code, stderr)
	}
}

func TestChangedMainProgramIsNotStarted(t *testing.T) {
	shipped := ship(t)
	env := []string{"NODELESS_DATA_DIR=" + t.TempDir()}
	got, _, _ := call(t, shipped, env, "nodeless")
	f, err := os.OpenFile(got.Self, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("damage"), 4096)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := call(t, shipped, env, "nodeless")
	if code != 1 || !strings.Contains(stderr, got.Self) || !strings.Contains(stderr, "hint: stop nodeless, remove ") {
		t.Errorf("exit code %d, stderr:\n%s", code, stderr)
	}
}
