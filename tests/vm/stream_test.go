package vm_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// stream is a running `kubectl logs -f`.
type stream struct {
	s    *space
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *stream) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *stream) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (s *space) follow(pod string) *stream {
	s.T.Helper()
	l := &stream{s: s, cmd: s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "logs", "-f", pod), done: make(chan error, 1)}
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	return l
}

// waitFor waits until the log has the text.
func (l *stream) waitFor(text string) {
	l.s.T.Helper()
	l.s.Until("the log has "+text, func() (bool, error) { return strings.Contains(l.String(), text), nil })
}

// rest waits until the log ends by itself and returns all of it.
func (l *stream) rest() string {
	l.s.T.Helper()
	select {
	case err := <-l.done:
		if err != nil {
			l.s.T.Errorf("kubectl logs -f: %v", err)
		}
	case <-l.s.Ctx.Done():
		l.s.T.Errorf("kubectl logs -f did not end: %v", l.s.Ctx.Err())
	}
	return l.String()
}

func TestLogsFollow(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; sleep 1; done; echo end >&2"]
`)
	s.Pod("counter", "has started", func(pod *corev1.Pod) bool { return pod.Status.Phase != corev1.PodPending })
	logs := s.follow("counter")
	logs.waitFor("line 2")
	if strings.Contains(logs.String(), "end") {
		t.Error("the log came all at once, want it to follow")
	}
	want := "line 1\nline 2\nline 3\nline 4\nline 5\nend\n"
	if got := logs.rest(); got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func TestExecExitCodeAndInput(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("a", ""))
	s.Ready("a")
	if out, code := s.Exec("a", "sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("exec = %q with code %d, want both streams and code 7", out, code)
	}
	if out, code := s.Exec("a", "no-such-program"); code == 0 {
		t.Errorf("exec of a program that is not there succeeded: %q", out)
	}
	const size = 1 << 20
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-i", "a", "--", "wc", "-c")
	cmd.Stdin = strings.NewReader(strings.Repeat("0123456789abcde\n", size/16))
	if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(size) {
		t.Errorf("the container read %q bytes of its input (%v), want %d", out, err, size)
	}
	out, err := s.Host.Kubectl(s.Ctx, "-n", s.Name, "exec", "a", "--", "head", "-c", strconv.Itoa(size), "/dev/zero")
	if err != nil || len(out) != size {
		t.Errorf("exec gave %d bytes of output (%v), want %d", len(out), err, size)
	}
}

// dialogue runs on the terminal: which one is it, when does it have the size of ours, what was typed. An interactive shell
// would ask the terminal for its cursor and take what is typed at once for the answer.
const dialogue = `tty; until [ "$(stty size)" = "45 123" ]; do sleep 0.1; done; stty size; read n; echo typed-$n; exit 5`

func TestExecWithTerminal(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("a", ""))
	s.Ready("a")
	terminal, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := terminal.Resize(console.WinSize{Width: 123, Height: 45}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	screen := &stream{s: s}
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-it", "a", "--", "sh", "-c", dialogue)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	go io.Copy(screen, terminal) //nolint:errcheck // ends with EIO when the other side closes
	screen.waitFor("45 123")
	if _, err := terminal.Write([]byte("2\n")); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("kubectl exec -it ended with code %d (%v), want 5", code, err)
	}
	screen.waitFor("typed-2")
	if !strings.Contains(screen.String(), "/dev/pts/") {
		t.Errorf("the screen shows %q, want a terminal's name in it", screen.String())
	}
}
