package vm_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// neighbours has a container that minds its own business beside ones that take too much: memory within its own limit,
// processor time, and, once it is told to, all that the guest has.
const neighbours = `
apiVersion: v1
kind: Pod
metadata: {name: neighbours}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: quiet, image: IMAGE, command: [sleep, "1000"]}
  - name: greedy
    image: IMAGE
    command: [/hello, alloc, "200"]
    resources: {limits: {memory: 64Mi}}
  - name: busy
    image: IMAGE
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 100m}, requests: {cpu: 10m}}
  - name: hog
    image: IMAGE
    command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.2; done; exec /hello alloc 4000"]
---
apiVersion: v1
kind: Pod
metadata: {name: bomb}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: quiet, image: IMAGE, command: [sleep, "1000"]}
  - name: bomb
    image: IMAGE
    command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.2; done; while :; do sleep 1000 & done"]
    resources: {requests: {cpu: 1, memory: 1Gi}} # as little memory to fill as goes with a whole core
`

// TestNeighboursOfAContainerThatTakesTooMuch: whatever a container takes, it is that container that pays. Its neighbours keep
// their processes, and the agent of the guest answers.
func TestNeighboursOfAContainerThatTakesTooMuch(t *testing.T) {
	s := newQuietSpace(t, 9*time.Minute) // a bomb takes its time on one emulated CPU
	s.Apply(neighbours)
	oomKilled := func(container string) func(*corev1.Pod) bool {
		return func(pod *corev1.Pod) bool {
			end := status(pod, container).LastTerminationState.Terminated
			if now := status(pod, container).State.Terminated; now != nil {
				end = now
			}
			return end != nil && end.ExitCode == 137 && end.Reason == "OOMKilled"
		}
	}
	const identity = "cut -d' ' -f22 /proc/1/stat; cat /proc/sys/kernel/random/boot_id" // when process 1 began, and in which boot
	s.Pod("neighbours", "has its greedy container killed", oomKilled("greedy"))
	before := s.inContainer("quiet", "neighbours", identity)

	throttled := func() int {
		t.Helper()
		n, err := strconv.Atoi(s.inContainer("busy", "neighbours", "awk '/^nr_throttled/ {print $2}' /sys/fs/cgroup/cpu.stat"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := s.inContainer("busy", "neighbours", "cat /sys/fs/cgroup/cpu.max"); got != "10000 100000" {
		t.Errorf("cpu.max = %q, want 10000 100000", got)
	}
	first := throttled()
	s.Until("the busy container is throttled again", func() (bool, error) {
		now := throttled()
		return now > first, fmt.Errorf("nr_throttled stays %d", now)
	})

	s.inContainer("hog", "neighbours", "touch /tmp/go") // beyond all the memory of the guest
	s.Pod("neighbours", "has its hog killed", oomKilled("hog"))
	if after := s.inContainer("quiet", "neighbours", identity); after != before {
		t.Errorf("the quiet neighbour was %q and is %q", before, after)
	}

	before = s.inContainer("quiet", "bomb", identity)
	limit := s.inContainer("bomb", "bomb", "cat /sys/fs/cgroup/pids.max; touch /tmp/go")
	if n, err := strconv.Atoi(limit); err != nil || n < 200 {
		t.Errorf("pids.max = %q, want a limit that leaves room for work", limit)
	}
	// It is out of processes, or out of the guest's memory, whichever is less.
	s.Pod("bomb", "has its bomb defused", func(pod *corev1.Pod) bool {
		return status(pod, "bomb").LastTerminationState.Terminated != nil || status(pod, "bomb").State.Terminated != nil
	})
	if after := s.inContainer("quiet", "bomb", identity); after != before {
		t.Errorf("the bomb's neighbour was %q and is %q", before, after)
	}
}

// surroundings prints what a process finds around it.
const surroundings = `
apiVersion: v1
kind: Pod
metadata: {name: around}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    env: [{name: GREETING, value: "grüezi = mitenand"}, {name: LARGE, valueFrom: {configMapKeyRef: {name: large, key: text}}}]
    command:
    - sh
    - -c
    - |
      echo files=$(ulimit -n)
      echo hardfiles=$(ulimit -H -n)
      echo processes=$(awk '/Max processes/ {print $3}' /proc/self/limits)
      echo time=$(date +%s)
      echo uptime=$(cut -d. -f1 /proc/uptime)
      echo large=${#LARGE}
      echo entropy=$(cat /proc/sys/kernel/random/entropy_avail)
      echo random=$(head -c 16 /dev/random | hexdump -v -e '1/1 "%02x"')
      echo greeting="$GREETING"
      echo end
      exec sleep 1000
  - name: setter
    image: IMAGE
    securityContext: {capabilities: {add: [SYS_TIME]}}
    command: [sleep, "1000"]
`

// TestSurroundings: limits, clock, entropy and environment are those of a container on a node.
func TestSurroundings(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	large := strings.Repeat("0123456789", 10_000) // less than what one variable may be, more than most pipes hold
	s.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: large}\ndata: {text: \"" + large + "\"}\n" + "---" + surroundings)
	began := time.Now()
	s.Ready("around")
	got := s.facts("around", "main")
	want(t, "container", got, map[string]string{
		"files": "1048576", "hardfiles": "1048576", "processes": "unlimited", "large": "100000", "greeting": "grüezi = mitenand",
	})
	second := func(key string) time.Duration {
		t.Helper()
		n, err := strconv.Atoi(got[key])
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return time.Duration(n) * time.Second
	}
	printed := time.Unix(0, 0).Add(second("time"))
	if printed.Before(began.Add(-time.Second).Truncate(time.Second)) || printed.After(time.Now()) {
		t.Errorf("the container's time was %s, started between %s and %s", printed, began, time.Now())
	}
	if up := second("uptime"); up > time.Since(began)+time.Second {
		t.Errorf("the guest has been up for %s, its Pod for %s", up, time.Since(began))
	}
	if len(got["random"]) != 32 || got["entropy"] < "1" {
		t.Errorf("random = %q with %q bits at hand", got["random"], got["entropy"])
	}

	// Exec sees the container's environment, and any byte passes.
	if got := s.inContainer("main", "around", "echo ${#LARGE} $GREETING"); got != "100000 grüezi = mitenand" {
		t.Errorf("exec sees %q", got)
	}
	out, err := s.Host.Kubectl(s.Ctx, "-n", s.Name, "exec", "around", "-c", "main", "--", "sh", "-c",
		`i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done`)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		if len(out) != 256 || out[i] != byte(i) {
			t.Errorf("256 bytes of all kinds came as %q", out)
			break
		}
	}
	s.clockComesBack()
}

// clockComesBack sets the guest's clock wrong, as a pause or a drift of hours would, and waits for the host to put it right.
func (s *space) clockComesBack() {
	s.T.Helper()
	offset := func() time.Duration {
		s.T.Helper()
		asked := time.Now()
		n, err := strconv.ParseInt(s.inContainer("main", "around", "date +%s"), 10, 64)
		if err != nil {
			s.T.Fatal(err)
		}
		guest := time.Unix(n, 0)
		switch heard := time.Now(); {
		case guest.Before(asked.Truncate(time.Second)):
			return guest.Sub(asked)
		case guest.After(heard):
			return guest.Sub(heard)
		}
		return 0
	}
	if off := offset(); off.Abs() > time.Second {
		s.T.Errorf("the guest's clock is off by %s", off)
	}
	s.inContainer("setter", "around", "date -s @$(( $(date +%s) - 3600 ))")
	s.Until("the clock is right again", func() (bool, error) {
		off := offset()
		return off.Abs() <= time.Second, fmt.Errorf("it is off by %s", off)
	})
}
