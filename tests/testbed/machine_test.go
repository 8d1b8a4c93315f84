package testbed

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// near is a machine that is this one: its ssh is a shell here.
func near(t *testing.T) (h *Host, dir string) {
	t.Helper()
	dir = t.TempDir()
	program := filepath.Join(dir, "bundle", "bin", "nodeless")
	for name, text := range map[string]string{
		"ssh":         "#!/bin/sh\n[ \"$1 $2\" = \"-F $NODELESS_MACHINE/ssh_config\" ] || exit 99\nshift 2\nif [ \"$1\" = -W ]; then exec cat; fi\nshift\nexec sh -c \"$*\"\n",
		"slow":        "3\n",
		"a file":      "it's here",
		"nodeless":    "#!/bin/sh\necho \"$KUBECONFIG: $*\"\n",
		"b/pod1/file": "",
	} {
		path := filepath.Join(dir, name)
		if name == "nodeless" {
			path = program
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("NODELESS_PROGRAM", program)
	t.Setenv(MachineEnv, dir)
	h, err := Attach()
	if err != nil || h == nil {
		t.Fatalf("attach: %v, %v", h, err)
	}
	return h, dir
}

func TestMachineIsSpokenToBySSH(t *testing.T) {
	h, dir := near(t)
	if got, err := h.Exec(t.Context(), "printf", "%s|", "a b", "it's", "$HOME", `"`); err != nil || got != `a b|it's|$HOME|"|` {
		t.Errorf("the words arrive as %q, %v", got, err)
	}
	if got, err := h.Kubectl(t.Context(), "get", "pods"); err != nil || got != dir+"/kubeconfig: kubectl get pods\n" {
		t.Errorf("kubectl runs here, and says %q, %v", got, err)
	}
	for word, want := range map[string]string{h.Program: installed, filepath.Dir(h.Program) + "/../aux/nft": unpacked + "aux/nft", "/bin/true": "/bin/true"} {
		if got := h.Command(t.Context(), word, "x").Args; got[len(got)-1] != "'"+want+"' 'x'" {
			t.Errorf("%s becomes %q", word, got)
		}
	}
	if got := h.Patience(time.Minute); got != 3*time.Minute {
		t.Errorf("a minute of the machine's is %s here", got)
	}
}

func TestMachineIsLookedAtBySSH(t *testing.T) {
	h, dir := near(t)
	if raw, err := h.ReadFile(dir + "/a file"); err != nil || string(raw) != "it's here" {
		t.Errorf("the file says %q, %v", raw, err)
	}
	if _, err := h.ReadFile(dir + "/none"); err == nil {
		t.Error("a file that is not there was read")
	}
	if got, err := h.Glob(dir+"/no*", dir+"/s*", dir+"/b/pod*"); err != nil || !slices.Equal(got, []string{dir + "/slow", dir + "/ssh", dir + "/b/pod1"}) {
		t.Errorf("the pattern gives %q, %v", got, err)
	}
	child := h.Command(context.Background(), "exec", "sleep", "1234.5")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait() //nolint:errcheck // it was killed
	var pid int
	for deadline := time.Now().Add(10 * time.Second); pid == 0; time.Sleep(20 * time.Millisecond) {
		all, err := h.Processes()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it is not among the processes, %v", err)
		}
		for p, line := range all {
			if line == "sleep 1234.5" {
				pid = p
			}
		}
	}
	if err := h.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	child.Wait() //nolint:errcheck // it was killed
	if err := h.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("a process that has gone: %v", err)
	}
}

func TestMachineIsDialledThroughSSH(t *testing.T) {
	h, _ := near(t)
	conn, err := h.Dial(t.Context(), "tcp", "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("there and back")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 14)
	if _, err := conn.Read(got); err != nil || string(got) != "there and back" {
		t.Errorf("%q came back, %v", got, err)
	}
	if _, ok := conn.(*net.UnixConn); !ok {
		t.Errorf("the connection is a %T", conn)
	}
}

func TestMachineThatIsNone(t *testing.T) {
	t.Setenv(MachineEnv, t.TempDir())
	if h, err := Attach(); err == nil || !strings.Contains(err.Error(), MachineEnv) {
		t.Errorf("attach: %v, %v", h, err)
	}
	t.Setenv(MachineEnv, "")
	if h, err := Attach(); err != nil || h != nil {
		t.Errorf("attach without a machine: %v, %v", h, err)
	}
}
