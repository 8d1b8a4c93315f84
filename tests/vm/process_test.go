package vm_test

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/ociimage"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// log is what a container has printed; previous asks for the run before.
func (s *space) log(pod, container string, previous bool) (string, error) {
	req := s.Client.CoreV1().Pods(s.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container, Previous: previous})
	body, err := req.Stream(s.Ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return string(text), err
}

// facts are the lines KEY=VALUE that a container has printed up to the line "end".
func (s *space) facts(pod, container string) map[string]string {
	s.T.Helper()
	found := map[string]string{}
	s.Until(fmt.Sprintf("container %s of Pod %s has told all", container, pod), func() (bool, error) {
		text, err := s.log(pod, container, false)
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(text) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			found[key] = value
		}
		_, ended := found["end"]
		return ended, fmt.Errorf("its log is %q", text)
	})
	return found
}

// withScript puts a script, whose lines are indented by six, in the place of "TELL".
func withScript(manifest, script string) string {
	return strings.ReplaceAll(manifest, "[sh, -c, \"TELL\"]", "\n    - sh\n    - -c\n    - |"+script)
}

// want compares facts with what they should be.
func want(t *testing.T, who string, got, wanted map[string]string) {
	t.Helper()
	for key, value := range wanted {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", who, key, got[key], value)
		}
	}
}

// status is a container's of a Pod, whatever kind of container it is.
func status(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			if c.Name == container {
				return c
			}
		}
	}
	return corev1.ContainerStatus{}
}

// done waits until a Pod has come to its end.
func (s *space) done(pod string, phase corev1.PodPhase) *corev1.Pod {
	s.T.Helper()
	return s.Pod(pod, "is "+string(phase), func(p *corev1.Pod) bool { return p.Status.Phase == phase })
}

// event waits for an event of a Pod whose message has the words.
func (s *space) event(pod, reason string, words ...string) {
	s.T.Helper()
	s.Until(fmt.Sprintf("Pod %s has an event %s with %q", pod, reason, words), func() (bool, error) {
		list, err := s.Client.CoreV1().Events(s.Name).List(s.Ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return false, err
		}
		var seen []string
		for _, e := range list.Items {
			seen = append(seen, e.Reason+": "+e.Message)
			if e.Reason == reason && hasAll(e.Message, words) {
				return true, nil
			}
		}
		return false, fmt.Errorf("its events are %q", seen)
	})
}

func hasAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// codes is a Pod whose containers end in every way. They share a PID namespace: the first process of one of its own
// cannot be killed by a signal it sends itself, on no node.
const codes = `
apiVersion: v1
kind: Pod
metadata: {name: codes}
spec:
  restartPolicy: Never
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: ok, image: IMAGE, command: [sh, -c, "exit 0"]}
  - {name: one, image: IMAGE, command: [sh, -c, "exit 1"]}
  - {name: answer, image: IMAGE, command: [sh, -c, "exit 42"]}
  - {name: last, image: IMAGE, command: [sh, -c, "exit 255"]}
  - {name: usr1, image: IMAGE, command: [sh, -c, "kill -USR1 $$$$"]}
  - {name: segv, image: IMAGE, command: [sh, -c, "kill -SEGV $$$$"]}
  - {name: kill, image: IMAGE, command: [sh, -c, "kill -KILL $$$$"]}
  - {name: term, image: IMAGE, command: [sh, -c, "kill -TERM $$$$"]}
  - {name: missing, image: IMAGE, command: [/no/such/program, argument]}
  - {name: folder, image: IMAGE, command: [/tmp]}
  - {name: workdir, image: IMAGE, workingDir: /made/for/me, command: [sh, -c, "test $PWD = /made/for/me"]}
  - {name: message, image: IMAGE, command: [sh, -c, "printf farewell > /dev/termination-log; exit 3"]}
  - {name: elsewhere, image: IMAGE, terminationMessagePath: /tmp/note, command: [sh, -c, "printf noted > /tmp/note"]}
  - {name: words, image: IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo last words; exit 4"]}
  - {name: silent, image: IMAGE, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo all is well"]}
`

func TestExitCodesAndTerminationMessages(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(codes)
	pod := s.done("codes", corev1.PodFailed)
	for _, tt := range []struct {
		container, reason, message string
		code                       int32
	}{
		{"ok", "Completed", "", 0},
		{"one", "Error", "", 1},
		{"answer", "Error", "", 42},
		{"last", "Error", "", 255},
		{"usr1", "Error", "", 138},
		{"segv", "Error", "", 139},
		{"kill", "Error", "", 137},
		{"term", "Error", "", 143},
		{"workdir", "Completed", "", 0},
		{"message", "Error", "farewell", 3},
		{"elsewhere", "Completed", "noted", 0},
		{"words", "Error", "last words\n", 4},
		{"silent", "Completed", "", 0},
	} {
		end := status(pod, tt.container).State.Terminated
		if end == nil || end.ExitCode != tt.code || end.Reason != tt.reason || end.Message != tt.message {
			t.Errorf("container %s ended as %+v, want code %d, reason %s, message %q", tt.container, end, tt.code, tt.reason, tt.message)
		}
	}
	// What cannot be started says so as with runc: code 128, and the program by its name.
	for container, words := range map[string][]string{
		"missing": {"/no/such/program", "no such file or directory"},
		"folder":  {"/tmp"},
	} {
		end := status(pod, container).State.Terminated
		if end == nil || end.ExitCode != 128 || end.Reason != "StartError" || !hasAll(end.Message, words) {
			t.Errorf("container %s ended as %+v, want StartError with 128 and %q", container, end, words)
		}
	}
}

// ordered completes by itself: when main ends, the kubelet ends the sidecars, the last one first.
const ordered = `
apiVersion: v1
kind: Pod
metadata: {name: ordered}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 20
  volumes: [{name: log, emptyDir: {}}]
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, "echo first >> /log/order"]
    volumeMounts: &log [{name: log, mountPath: /log}]
  - name: outer
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "trap 'echo outer ends >> /log/order; cat /log/order; exit 0' TERM; echo outer >> /log/order; while :; do sleep 0.2 & wait; done"]
    startupProbe: {exec: {command: [grep, -q, outer, /log/order]}, periodSeconds: 1}
    volumeMounts: *log
  - name: second
    image: IMAGE
    command: [sh, -c, "grep -q again /log/order || { echo again >> /log/order; exit 1; }; echo second >> /log/order"]
    volumeMounts: *log
  - name: inner
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "trap 'echo inner ends >> /log/order; exit 0' TERM; echo inner >> /log/order; while :; do sleep 0.2 & wait; done"]
    startupProbe: {exec: {command: [grep, -q, inner, /log/order]}, periodSeconds: 1}
    volumeMounts: *log
  - name: largest
    image: IMAGE
    command: [sh, -c, "/hello alloc 400 && echo largest >> /log/order"]
    resources: {limits: {memory: 600Mi}, requests: {memory: 16Mi}}
    volumeMounts: *log
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo main >> /log/order; sleep 1; echo main ends >> /log/order"]
    resources: {limits: {memory: 32Mi}}
    volumeMounts: *log
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  restartPolicy: Never
  initContainers: [{name: fails, image: IMAGE, command: [sh, -c, "exit 9"]}]
  containers: [{name: main, image: IMAGE, command: [sh, -c, "echo must not run"]}]
`

// TestInitContainersAndSidecars: one after the other, tried again when one fails, sidecars beside what follows them and
// ended after it in reverse. The microVM has room for the largest of them, which needs more than the main container has.
func TestInitContainersAndSidecars(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.Apply(ordered)
	pod := s.done("ordered", corev1.PodSucceeded)
	text, err := s.log("ordered", "outer", false)
	if err != nil {
		t.Fatal(err)
	}
	wanted := "first, outer, again, second, inner, largest, main, main ends, inner ends, outer ends"
	if got := strings.Join(splitLines(text), ", "); got != wanted {
		t.Errorf("the order was\n%s, want\n%s", got, wanted)
	}
	if n := status(pod, "second").RestartCount; n != 1 {
		t.Errorf("the init container that failed once was restarted %d times", n)
	}
	for _, sidecar := range []string{"outer", "inner"} {
		if end := status(pod, sidecar).State.Terminated; end == nil || end.ExitCode != 0 {
			t.Errorf("sidecar %s ended as %+v, want code 0", sidecar, end)
		}
	}
	pod = s.done("never", corev1.PodFailed)
	if end := status(pod, "fails").State.Terminated; end == nil || end.ExitCode != 9 {
		t.Errorf("the init container ended as %+v, want code 9", end)
	}
	if main := status(pod, "main"); main.State.Waiting == nil || main.State.Waiting.Reason != "PodInitializing" {
		t.Errorf("main is %+v after a failed init container, want it never started", main.State)
	}
}

// stops has containers that a probe ends, so that the kubelet stops them and the Pod stays to be looked at.
const stops = `
apiVersion: v1
kind: Pod
metadata: {name: stops}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 2
  containers:
  - name: plain
    image: IMAGE
    command: [sleep, "1000"]
    livenessProbe: &dead {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
  - name: polite
    image: IMAGE
    command: [sh, -c, "trap 'echo TERM; exit 7' TERM; while :; do sleep 0.2 & wait; done"]
    livenessProbe: *dead
  - name: stubborn
    image: IMAGE
    command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]
    livenessProbe: *dead
  - name: signal
    image: docker.io/nodeless/own-signal:1
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 21' USR1; trap 'exit 22' TERM; while :; do sleep 0.2 & wait; done"]
    livenessProbe: *dead
`

// always has a container that is started again though it succeeded, onfailure one that is not and one that is until it does.
const always = `
apiVersion: v1
kind: Pod
metadata: {name: always}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sh, -c, "exit 0"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: onfailure}
spec:
  restartPolicy: OnFailure
  volumes: [{name: log, emptyDir: {}}]
  containers:
  - {name: well, image: IMAGE, command: [sh, -c, "exit 0"]}
  - name: twice
    image: IMAGE
    command: [sh, -c, "test -e /log/again || { touch /log/again /tmp/again; exit 5; }; test ! -e /tmp/again"]
    volumeMounts: [{name: log, mountPath: /log}]
`

// ownSignal is an image that wants another signal than TERM.
const ownSignal = "docker.io/nodeless/own-signal:1"

// importOwnSignal makes that image and brings it into the host.
func (s *space) importOwnSignal() {
	s.T.Helper()
	s.OwnHost(s.T, "an image is brought into it")
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		s.T.Fatal(err)
	}
	files := []ociimage.File{{Path: "/bin/busybox", Mode: 0o755, Data: shell}}
	for _, tool := range []string{"sh", "sleep", "false"} {
		files = append(files, ociimage.File{Path: "/bin/" + tool, Mode: fs.ModeSymlink | 0o777, Link: "busybox"})
	}
	archive, err := os.Create(s.Host.Path("/run/own-signal.tar"))
	if err != nil {
		s.T.Fatal(err)
	}
	defer archive.Close()
	err = ociimage.Write(archive, ociimage.Image{
		Name: ownSignal, Layers: [][]ociimage.File{files},
		Config: v1.ImageConfig{StopSignal: "SIGUSR1", Env: []string{"PATH=/bin"}, User: "1234"},
	})
	if err != nil {
		s.T.Fatal(err)
	}
	if out, err := s.Host.Nodeless(s.Ctx, "ctr", "-n", "k8s.io", "images", "import", "/run/own-signal.tar"); err != nil {
		s.T.Fatalf("import: %v\n%s", err, out)
	}
}

func TestStopSignalsAndRestartPolicies(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.importOwnSignal()
	s.Apply(stops)
	s.Apply(always)
	for container, code := range map[string]int32{"plain": 143, "polite": 7, "stubborn": 137, "signal": 21} {
		pod := s.Pod("stops", container+" was stopped and is back", func(pod *corev1.Pod) bool {
			return status(pod, container).LastTerminationState.Terminated != nil
		})
		if end := status(pod, container).LastTerminationState.Terminated; end.ExitCode != code {
			t.Errorf("container %s was stopped with code %d, want %d", container, end.ExitCode, code)
		}
	}
	s.Pod("always", "is started again after success", func(pod *corev1.Pod) bool {
		c := status(pod, "main")
		return c.RestartCount > 0 && c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ExitCode == 0
	})
	pod := s.done("onfailure", corev1.PodSucceeded)
	if well, twice := status(pod, "well").RestartCount, status(pod, "twice").RestartCount; well != 0 || twice != 1 {
		t.Errorf("restarts are %d of the one that succeeds and %d of the one that fails once, want 0 and 1", well, twice)
	}
}

// orphans leaves processes behind whose parent has gone: in a PID namespace of its own a container's first process
// inherits and must collect them, as on a node; in a shared one the holder of the namespace does.
const orphans = `
apiVersion: v1
kind: Pod
metadata: {name: orphans}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "i=0; while [ $i -lt 20 ]; do (sleep 0.1 &); i=$((i+1)); done; exec sleep 1000"]
  - {name: other, image: IMAGE, command: [sleep, "2000"]}
`

func TestSharedProcessNamespace(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(orphans)
	s.Ready("orphans")
	s.Until("no orphan is left as a zombie", func() (bool, error) {
		out := s.MustExec("orphans", "sh", "-c", "ps -o stat,args | grep -c '^Z' || true")
		return out == "0", fmt.Errorf("there are %s", out)
	})
	const look = "ps -o pid,args | grep -v grep; tr '\\0' ' ' < /proc/1/cmdline"
	out := s.MustExec("orphans", "sh", "-c", look)
	for _, line := range []string{"sleep 1000", "sleep 2000"} {
		if !strings.Contains(out, line) {
			t.Errorf("container main sees %q, want %q among it", out, line)
		}
	}
	// The other's process can be signalled, and only that container is started again.
	s.MustExec("orphans", "sh", "-c", "kill $(ps -o pid,args | awk '$3 == 2000 {print $1}')")
	pod := s.Pod("orphans", "has its other container back", func(pod *corev1.Pod) bool {
		return status(pod, "other").RestartCount == 1 && testcluster.IsReady(pod)
	})
	if end := status(pod, "other").LastTerminationState.Terminated; end == nil || end.ExitCode != 143 {
		t.Errorf("the other container ended as %+v, want code 143", end)
	}
	if n := status(pod, "main").RestartCount; n != 0 {
		t.Errorf("main was restarted %d times as well", n)
	}
	// Exec, many times over, leaves nothing either, and tells codes and signals as they are.
	for script, code := range map[string]int{"exit 0": 0, "exit 255": 255, "kill -SEGV $$": 139, "kill -USR1 $$": 138, "(sleep 0.1 &)": 0} {
		if out, got := s.Exec("orphans", "sh", "-c", script); got != code {
			t.Errorf("exec of %q: code %d, want %d: %s", script, got, code, out)
		}
	}
	out, code := s.Exec("orphans", "no-such-program")
	if code == 0 || !strings.Contains(out, "no-such-program") {
		t.Errorf("exec of a missing program: code %d, %q; want its name", code, out)
	}
}
