package vm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// teamPod has three containers around the same volumes: one that is privileged, one that only reads, one of another user.
const teamPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, motto: "plain code"}
---
apiVersion: v1
kind: Pod
metadata: {name: team}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 2000, supplementalGroups: [4000]}
  hostAliases: [{ip: 10.1.2.3, hostnames: [alias.example]}]
  dnsConfig: {options: [{name: ndots, value: "3"}]}
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, "mkdir -p /disk/tree/deep; echo deep > /disk/tree/deep/file; cp /hello /disk/hello; touch /disk/record /disk/whole; chmod 666 /disk/record /disk/whole; echo from-init > /memory/file; printf first-was-here > /dev/termination-log"]
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  containers:
  - name: writer
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    securityContext: {privileged: true}
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: disk, mountPath: /disk, mountPropagation: Bidirectional}
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /deep, subPath: tree/deep}
    - {name: disk, mountPath: /mine, subPathExpr: "of-$(POD_NAME)"}
    - {name: memory, mountPath: /one, subPath: file}
    - {name: memory, mountPath: /made, subPath: made/deep}
    - {name: names, mountPath: /with space/ünïcode}
  - name: reader
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    volumeMounts:
    - {name: disk, mountPath: /disk, readOnly: true, mountPropagation: HostToContainer}
    - {name: memory, mountPath: /memory, readOnly: true, recursiveReadOnly: Enabled}
    - {name: settings, mountPath: /etc/passwd, subPath: colour}
    - {name: settings, mountPath: /settings/below}
  - name: user
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    securityContext: {runAsUser: 1000, runAsGroup: 3000}
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /disk/inside}, {name: shm, mountPath: /dev/shm}, {name: names, mountPath: /names}]
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: 96Mi}}
  - {name: settings, configMap: {name: settings}}
  - name: names
    configMap:
      name: settings
      defaultMode: 0444
      items: [{key: colour, path: "a b/größe ☃", mode: 0400}, {key: motto, path: plain}]
`

func TestContainersShareVolumes(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(teamPod)
	pod := s.Ready("team")
	if got := pod.Status.InitContainerStatuses[0].State.Terminated; got == nil || got.Message != "first-was-here" {
		t.Errorf("the init container's termination message is %+v, want first-was-here", got)
	}
	t.Run("places", func(t *testing.T) { s.with(t).places() })
	t.Run("memory", func(t *testing.T) { s.with(t).memory() })
	t.Run("one file for all", func(t *testing.T) { s.with(t).oneFile() })
	t.Run("rights", func(t *testing.T) { s.with(t).rights() })
}

// places looks at where volumes are mounted: parts of them, over and inside of each other.
func (s *space) places() {
	s.checks("team", "writer",
		check{"a folder of a volume", "cat /deep/file", "deep"},
		check{"is the folder itself", "echo new > /deep/new; cat /disk/tree/deep/new", "new"},
		check{"a folder named by the environment", "echo x > /mine/x; cat /disk/of-team/x", "x"},
		check{"a file of a volume in memory, made by an init container", "cat /one", "from-init"},
		check{"a folder of a volume in memory", "echo m > /made/m; cat /memory/made/deep/m", "m"},
		check{"names with spaces and beyond ASCII", "cat '/with space/ünïcode/a b/größe ☃'", "blue"},
		check{"shared memory has the usual size", "df -k /dev/shm | awk 'END {print $2}'", "65536"},
	)
	s.checks("team", "user", check{"a volume inside another", "stat -f -c %T /disk/inside; cat /disk/inside/file", "tmpfs\nfrom-init"})
	s.checks("team", "reader",
		check{"a ConfigMap's file over one of the image", "cat /etc/passwd", "blue"},
		check{"a mount point is made, with the folders above", "cat /settings/below/motto", "plain code"},
		check{"a volume over a folder of a volume is in one container only", "ls /disk/inside", ""},
		check{"a host alias", "awk '$1 == \"10.1.2.3\" {print $2}' /etc/hosts", "alias.example"},
		check{"the Pod's own name", "grep -c 'team$' /etc/hosts", "1"},
		check{"the resolver", "grep -c '^nameserver 10.43.0.10$' /etc/resolv.conf; grep -c '^options .*ndots:3' /etc/resolv.conf", "1\n1"},
	)
}

// memory looks at volumes in memory: their size, and whose memory it is.
func (s *space) memory() {
	s.checks("team", "writer",
		check{"a limit is the size of the tmpfs", "df -k /memory | awk 'END {print $2}'", "16384"},
		check{"beyond the limit there is no space", "dd if=/dev/zero of=/memory/big bs=1M count=20 2>&1 | grep -c 'No space left'", "1"},
		check{"it counts as the container's memory", "awk '$1 == \"shmem\" && $2 > 15000000 {print \"yes\"}' /sys/fs/cgroup/memory.stat", "yes"},
	)
	s.checks("team", "reader",
		check{"it is shared", "[ $(stat -c %s /memory/big) -gt 15000000 ] && echo yes", "yes"},
		check{"it can be mounted to read only", "touch /memory/x 2>&1 | grep -c 'Read-only'", "1"},
	)
	s.checks("team", "user", check{"a volume as shared memory", "df -k /dev/shm | awk 'END {print $2}'; echo x > /dev/shm/x && cat /dev/shm/x", "98304\nx"})
}

// oneFile looks at what only works if two containers see one file and not two with the same content.
func (s *space) oneFile() {
	s.in("team", "writer", `cd /disk; exec >/dev/null 2>&1
		/hello lock whole whole 300s > locked-whole &
		/hello lock record record 300s > locked-record &
		/hello listen socket &
		mkfifo pipe; echo through the pipe > pipe &
		echo 0000 > mapped
		echo one > a; ln a b; mv a c
		mkdir mnt; mount -t tmpfs tmpfs mnt; echo mounted > mnt/file
		until [ -s locked-whole ] && [ -s locked-record ] && [ -S socket ]; do sleep 0.1; done`)
	s.checks("team", "user",
		check{"a file lock", "/disk/hello lock whole /disk/whole 0s", "hello: lock: resource temporarily unavailable"},
		check{"a record lock", "/disk/hello lock record /disk/record 0s", "hello: lock: resource temporarily unavailable"},
	)
	s.checks("team", "reader",
		check{"a file before it is mapped", "cat /disk/mapped", "0000"},
		check{"a unix socket", "/disk/hello ask /disk/socket plain", "PLAIN"},
		check{"a FIFO", "cat /disk/pipe", "through the pipe"},
		check{"a hard link", "cat /disk/b /disk/c; stat -c %h /disk/b; ls /disk/a 2>&1 | grep -c 'No such'", "one\none\n2\n1"},
		check{"a mount that another container has made", "cat /disk/mnt/file", "mounted"},
		check{"nothing can be written", "for f in c mapped; do echo x 2>/dev/null > /disk/$f && echo written; done; echo done", "done"},
	)
	s.checks("team", "writer",
		check{"a shared mapping", "/hello poke /disk/mapped 12; cat /disk/mapped", "1200"},
	)
	s.checks("team", "reader", check{"a shared mapping, from outside", "cat /disk/mapped", "1200"})
	s.pingPong(20)
}

// pingPong lets two containers answer each other through files. Each turn takes as long as a change takes to be seen: a second, if
// that were only found out by asking the host anew.
func (s *space) pingPong(turns int) {
	answer := make(chan string, 1)
	go func() {
		out, err := s.Host.Kubectl(s.Ctx, "-n", s.Name, "exec", "team", "-c", "writer", "--", "sh", "-c",
			fmt.Sprintf(`for i in $(seq %d); do until [ "$(cat /disk/ping 2>/dev/null)" = $i ]; do :; done; echo $i > /disk/pong; done; echo ok`, turns))
		answer <- fmt.Sprint(out, err)
	}()
	out := s.in("team", "user", fmt.Sprintf(`touch /disk/ping /disk/pong; start=$(date +%%s)
		for i in $(seq %d); do echo $i > /disk/ping; until [ "$(cat /disk/pong)" = $i ]; do :; done; done; echo $(($(date +%%s) - start))`, turns))
	if got := <-answer; !strings.HasPrefix(got, "ok") {
		s.T.Errorf("the other side ended with %s", got)
	}
	var took int
	if _, err := fmt.Sscan(out, &took); err != nil || took > turns/2 {
		s.T.Errorf("%d turns took %q seconds, want less than half a second each", turns, out)
	}
}

// rights looks at who owns what, and at programs in a volume.
func (s *space) rights() {
	s.checks("team", "user",
		check{"groups", "id -u; id -g; id -G | tr ' ' '\\n' | sort | tr '\\n' ' '", "1000\n3000\n2000 3000 4000"},
		check{"a volume belongs to the fsGroup", "stat -c %g:%a /disk", "2000:2777"},
		check{"a member of the group can write to what the group may write to",
			"umask 002; mkdir /disk/ours && chmod 2770 /disk/ours && echo x > /disk/ours/x && stat -c %u:%g:%a /disk/ours /disk/ours/x", "1000:2000:2770\n1000:2000:664"},
		check{"a file of a mode", "cat '/names/a b/größe ☃'; echo; stat -c %u:%g:%a '/names/a b/größe ☃' /names/..data/plain", "blue\n0:2000:440\n0:2000:444"},
	)
	s.in("team", "writer", "mkdir -p /disk/team && chown 0:4000 /disk/team && chmod 0770 /disk/team")
	s.checks("team", "user", check{"a supplementary group is enough to make files", "echo x > /disk/team/x && mkdir /disk/team/y && stat -c %u:%g /disk/team/x", "1000:3000"})
	// Under emulation programs crashed as soon as memory that had held code was used again for pages of a volume.
	s.checks("team", "user", check{"a program runs again and again",
		`for i in $(seq 60); do /disk/hello lock whole /disk/own$i 0s > /dev/null || echo $i failed; [ $((i % 20)) = 0 ] && { cat /disk/hello /disk/hello > /disk/fill; rm /disk/fill; }; done; echo done`, "done"})
}
