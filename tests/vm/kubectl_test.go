package vm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// subjectPod is what kubectl is tried on: a server that only the Pod's own loopback reaches, one on all addresses,
// a container that repeats what is typed, and one whose input ends with the first who is at it. Before them a shell runs that
// nobody is at: it reads the end of its input and ends, or the Pod would never be ready.
const subjectPod = `
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: shell, image: IMAGE, command: [sh]}
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "mkdir /www && echo only-here > /www/index.html && exec httpd -f -p 127.0.0.1:8081 -h /www"]
  - {name: open, image: IMAGE}
  - name: parrot
    image: IMAGE
    stdin: true
    command: [sh, -c, "while read line; do echo parrot-$line; done; sleep 100000"]
  - name: once
    image: IMAGE
    stdin: true
    stdinOnce: true
    command: [sh, -c, "cat; echo the-end; sleep 100000"]
`

// TestKubectl holds what streams between kubectl and a Pod. Its parts run side by side: one of them mostly waits.
func TestKubectl(t *testing.T) {
	s := newQuietSpace(t, 8*time.Minute)
	s.Apply(subjectPod)
	s.Ready("a")
	for name, part := range map[string]func(*space){
		"port-forward": portForward, "port-forward-refused": portForwardRefused, "attach": attach, "attach-once": attachOnce, "no-input": noInput, "copy": copyBothWays,
		"exec-10MB": execBothWays, "exec-slow-reader": execSlowReader, "debug-target": debugTarget, "debug-apart": debugApart,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(s.with(t))
		})
	}
}

// tenMegabytes are random, so that nothing on the way can guess them.
func (s *space) tenMegabytes() []byte {
	s.T.Helper()
	data := make([]byte, 10<<20)
	if _, err := rand.Read(data); err != nil {
		s.T.Fatal(err)
	}
	return data
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forward runs `kubectl port-forward` and returns its output and the local port for each port of the Pod.
func (s *space) forward(ports ...int) (*stream, map[int]string) {
	s.T.Helper()
	ctx, cancel := context.WithCancel(s.Ctx)
	s.T.Cleanup(cancel)
	args := []string{"kubectl", "-n", s.Name, "port-forward", "--address=127.0.0.1", "a"}
	for _, p := range ports {
		args = append(args, fmt.Sprintf(":%d", p))
	}
	l := &stream{s: s, cmd: s.Host.Command(ctx, append([]string{s.Host.Program}, args...)...), done: make(chan error, 1)}
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	local := map[int]string{}
	for _, p := range ports {
		line := regexp.MustCompile(fmt.Sprintf(`Forwarding from 127\.0\.0\.1:(\d+) -> %d\n`, p))
		s.Until(fmt.Sprintf("port %d is forwarded", p), func() (bool, error) {
			if m := line.FindStringSubmatch(l.String()); m != nil {
				local[p] = m[1]
			}
			return local[p] != "", fmt.Errorf("kubectl says %q", l.String())
		})
	}
	return l, local
}

func portForward(s *space) {
	big := s.tenMegabytes()
	s.send("main", "/www/big", big)
	_, local := s.forward(8081, 8080)
	if got, err := s.get("http://127.0.0.1:" + local[8081] + "/index.html"); err != nil || got != "only-here\n" {
		s.T.Errorf("a server on the Pod's loopback answers %q, %v", got, err)
	}
	if got, err := s.get("http://127.0.0.1:" + local[8080] + "/"); err != nil || !strings.Contains(got, "pod a") {
		s.T.Errorf("a server on all addresses answers %q, %v", got, err)
	}
	if got, err := s.get("http://127.0.0.1:" + local[8081] + "/big"); err != nil || digest([]byte(got)) != digest(big) {
		s.T.Errorf("10 MB came as %d bytes, %v", len(got), err)
	}
}

func portForwardRefused(s *space) {
	l, local := s.forward(9)
	if got, err := s.get("http://127.0.0.1:" + local[9] + "/"); err == nil {
		s.T.Errorf("a port that nobody listens on answers %q", got)
	}
	l.waitFor("connection refused")
}

// send writes data into a file of a container by exec.
func (s *space) send(container, file string, data []byte) {
	s.T.Helper()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-i", "a", "-c", container, "--", "sh", "-c", "until [ -d "+filepath.Dir(file)+" ]; do sleep 0.1; done; cat > "+file)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.T.Fatalf("write %s: %v\n%s", file, err, out)
	}
}

func attach(s *space) {
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "attach", "-i", "a", "-c", "parrot")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.T.Fatal(err)
	}
	l := &stream{s: s, cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = l, l
	if err := cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		if _, err := io.WriteString(stdin, word+"\n"); err != nil {
			s.T.Fatal(err)
		}
		l.waitFor("parrot-" + word + "\n")
	}
	if err := cmd.Process.Kill(); err != nil { // a client that goes away takes nothing along
		s.T.Fatal(err)
	}
	_ = cmd.Wait()
	if got := s.Kubectl("logs", "a", "-c", "parrot"); got != "parrot-one\nparrot-two\n" {
		s.T.Errorf("log of the container after attaching is %q", got)
	}
	for _, word := range []string{"three", "four"} { // the end of one's own input is not that of the container's
		s.types("parrot", word+"\n")
		s.untilLog("a", "parrot", "parrot-"+word+"\n")
	}
}

// attachOnce: with stdinOnce the input of the container ends with that of the first who is attached.
func attachOnce(s *space) {
	s.types("once", "first\n")
	s.untilLog("a", "once", "first\nthe-end\n")
}

// types attaches to a container, types a text and goes. The client may stay until the container ends, so it is not waited for.
func (s *space) types(container, text string) {
	s.T.Helper()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "attach", "-i", "a", "-c", container)
	cmd.Stdin = strings.NewReader(text)
	if err := cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// noInput: a program that reads an input which nobody is at reads its end.
func noInput(s *space) {
	if out, code := s.Exec("a", "sh", "-c", "readlink /proc/self/fd/0; cat; echo end"); out != "/dev/null\nend\n" || code != 0 {
		s.T.Errorf("exec without -i = %q with code %d, want the end of the input at once", out, code)
	}
	if out := s.Kubectl("exec", "a", "-c", "open", "--", "readlink", "/proc/1/fd/0"); out != "/dev/null\n" {
		s.T.Errorf("the input of a container without stdin is %q", out)
	}
}

func copyBothWays(s *space) {
	s.OwnHost(s.T, "files are copied to and from it")
	dir := s.Host.Path("/run/copy")
	if err := os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o755); err != nil {
		s.T.Fatal(err)
	}
	data := s.tenMegabytes()
	for file, content := range map[string][]byte{"tree/big": data, "tree/sub/a file": []byte("text\n"), "tree/empty": nil} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o640); err != nil {
			s.T.Fatal(err)
		}
	}
	s.Kubectl("cp", "/run/copy/tree", "a:/tmp/there", "-c", "main")
	if got := strings.Fields(s.Kubectl("exec", "a", "-c", "main", "--", "sha256sum", "/tmp/there/big"))[0]; got != digest(data) {
		s.T.Errorf("the file in the Pod has another digest: %s, want %s", got, digest(data))
	}
	s.Kubectl("cp", "a:/tmp/there", "/run/copy/back", "-c", "main")
	for file, want := range map[string][]byte{"back/big": data, "back/sub/a file": []byte("text\n"), "back/empty": {}} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(got, want) {
			s.T.Errorf("%s came back with %d bytes (%v), want the %d that went", file, len(got), err, len(want))
		}
	}
}

// execBothWays sends 10 MB through a process and takes them back at the same time.
func execBothWays(s *space) {
	data := s.tenMegabytes()
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-i", "a", "-c", "open", "--", "cat")
	cmd.Stdin = bytes.NewReader(data)
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, data) {
		s.T.Errorf("10 MB through stdin and stdout of cat came back as %d bytes (%v), same content: %v", len(got), err, bytes.Equal(got, data))
	}
}

// execSlowReader: a process that leaves its input unread for longer than Kata's time-out for a request, one minute, still
// gets all of it.
func execSlowReader(s *space) {
	const size = 1 << 20
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "-i", "a", "-c", "open", "--", "sh", "-c", "sleep 65; wc -c")
	cmd.Stdin = strings.NewReader(strings.Repeat("x", size))
	if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(size) {
		s.T.Errorf("a process that reads after 65 s got %q bytes (%v), want %d", out, err, size)
	}
}

// debugTarget: the ephemeral container sees the processes of its target, and those only.
func debugTarget(s *space) {
	s.debug("in", "--target=main")
	log := s.untilLog("a", "in", "looked")
	if !strings.HasPrefix(log, "httpd -f -p 127.0.0.1:8081") {
		s.T.Errorf("process 1 of a debugger with a target is %q, want the target's", log)
	}
	if strings.Contains(log, "parrot") {
		s.T.Errorf("a debugger with a target sees another container's processes:\n%s", log)
	}
	if got := s.Kubectl("exec", "a", "-c", "in", "--", "cat", "/proc/1/root/www/index.html"); got != "only-here\n" {
		s.T.Errorf("the target's files, reached through its process, say %q", got)
	}
}

// debugApart: without a target it sees its own processes.
func debugApart(s *space) {
	s.debug("out")
	if log := s.untilLog("a", "out", "looked"); strings.Contains(log, "httpd") || !strings.HasPrefix(log, "sh -c") {
		s.T.Errorf("a debugger without a target sees:\n%s", log)
	}
}

func (s *space) debug(name string, flags ...string) {
	s.T.Helper()
	look := `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline; echo; done; echo looked; sleep 100000`
	args := append([]string{"debug", "-q", "a", "--image=" + testcluster.Image, "--profile=sysadmin", "-c", name}, flags...)
	s.Kubectl(append(args, "--", "sh", "-c", look)...)
}

// untilLog waits until the log of a container has the text, and returns all of it.
func (s *space) untilLog(pod, container, text string) (log string) {
	s.T.Helper()
	s.Until("the log of "+pod+" "+container+" has "+text, func() (bool, error) {
		raw, err := s.Client.CoreV1().Pods(s.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(s.Ctx)
		log = string(raw)
		return strings.Contains(log, text), err
	})
	return log
}

// TestLogsOutliveContainerd: containerd dies, and the server with it; after the next start the log of the same container is whole.
func TestLogsOutliveContainerd(t *testing.T) {
	shared.OwnHost(t, "the server is started anew by the test")
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: ticker}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sh, -c, "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.2; done"]}]
`)
	before := s.Ready("ticker")
	s.untilLog("ticker", "main", "tick 3\n")
	for _, pid := range s.Processes(s.T, " containerd --config ") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.Server.Wait(s.Ctx) //nolint:errcheck // it says which component failed
	if err := s.Start(s.Ctx); err != nil {
		t.Fatalf("start again: %v", err)
	}
	after := s.Ready("ticker")
	compare(t, *before, []corev1.Pod{*after})
	last := len(splitLines(s.untilLog("ticker", "main", "tick 3\n")))
	checkTicks(t, s.untilLog("ticker", "main", fmt.Sprintf("tick %d\n", last+10))) // it goes on
}
