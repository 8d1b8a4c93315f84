package vm_test

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
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
	s.t.Helper()
	l := &stream{s: s, cmd: s.host.Command(s.ctx, s.host.Program, "kubectl", "-n", s.name, "logs", "-f", pod), done: make(chan error, 1)}
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	return l
}

// waitFor waits until the log has the text.
func (l *stream) waitFor(text string) {
	l.s.t.Helper()
	l.s.until("the log has "+text, func() (bool, error) { return strings.Contains(l.String(), text), nil })
}

// rest waits until the log ends by itself and returns all of it.
func (l *stream) rest() string {
	l.s.t.Helper()
	select {
	case err := <-l.done:
		if err != nil {
			l.s.t.Errorf("kubectl logs -f: %v", err)
		}
	case <-l.s.ctx.Done():
		l.s.t.Errorf("kubectl logs -f did not end: %v", l.s.ctx.Err())
	}
	return l.String()
}

func TestLogsFollow(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.apply(`
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
	s.pod("counter", "has started", func(pod *corev1.Pod) bool { return pod.Status.Phase != corev1.PodPending })
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
	s.apply(sleeper("a", ""))
	s.ready("a")
	if out, code := s.exec("a", "sh", "-c", "echo out; echo err >&2; exit 7"); code != 7 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("exec = %q with code %d, want both streams and code 7", out, code)
	}
	if out, code := s.exec("a", "no-such-program"); code == 0 {
		t.Errorf("exec of a program that is not there succeeded: %q", out)
	}
	cmd := s.host.Command(s.ctx, s.host.Program, "kubectl", "-n", s.name, "exec", "-i", "a", "--", "cat")
	cmd.Stdin = strings.NewReader(strings.Repeat("0123456789abcde\n", 64<<10)) // 1 MiB
	out, err := cmd.Output()
	if err != nil || len(out) != 16*64<<10 {
		t.Errorf("cat gave %d bytes back (%v), want %d", len(out), err, 16*64<<10)
	}
}

// sizes tells a terminal's size once.
type sizes chan remotecommand.TerminalSize

func (q sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

// dialogue runs on the terminal: which one is it, when does it have the size of ours, what was typed. An interactive shell
// would ask the terminal for its cursor and take what is typed at once for the answer.
const dialogue = `tty; until [ "$(stty size)" = "45 123" ]; do sleep 0.1; done; stty size; read n; echo typed-$n; exit 5`

func TestExecWithTerminal(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.apply(sleeper("a", ""))
	s.ready("a")
	req := s.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(s.name).Name("a").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "main", Command: []string{"sh", "-c", dialogue}, Stdin: true, Stdout: true, TTY: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(s.rest, "POST", req.URL())
	if err != nil {
		t.Fatal(err)
	}
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 123, Height: 45}
	defer close(queue)
	input, typed := io.Pipe()
	screen := &stream{s: s}
	ended := make(chan error, 1)
	go func() {
		ended <- executor.StreamWithContext(s.ctx, remotecommand.StreamOptions{Stdin: input, Stdout: screen, Tty: true, TerminalSizeQueue: queue})
	}()
	_, err = typed.Write([]byte("2\n"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err = <-ended:
	case <-s.ctx.Done():
		t.Fatalf("the shell did not end: %v; the screen shows %q", s.ctx.Err(), screen.String())
	}
	if err == nil || !strings.Contains(err.Error(), "5") {
		t.Errorf("shell ended with %v, want exit code 5", err)
	}
	for _, want := range []string{"/dev/pts/", "45 123", "typed-2"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("the screen shows %q, want %q in it", screen.String(), want)
		}
	}
}
