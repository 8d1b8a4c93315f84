package vm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// tell prints who a process is and what it may.
const tell = `
      awk -F: '/^(NoNewPrivs|Seccomp|CapEff|CapBnd)/ {sub(/^[ \t]+/, "", $2); print $1 "=" $2}' /proc/self/status
      echo uid=$(id -u)
      echo gid=$(id -g)
      echo groups=$(id -G)
      echo write=$(touch /file 2>&1 && echo done)
      echo mkdir=$(mkdir /tmp/new 2>&1 && echo done)
      echo unshare=$(unshare -U true 2>&1 | sed 's/.*: //')
      echo sysctl=$( (echo 1 > /proc/sys/kernel/shmmni) 2>&1 | sed 's/.*: //')
      echo kcore=$(head -c 1 /proc/kcore 2>/dev/null | wc -c)
      echo firmware=$(ls /sys/firmware 2>/dev/null | wc -l)
      echo end
`

// contexts has a container for each setting of a security context.
const contexts = `
apiVersion: v1
kind: Pod
metadata: {name: contexts}
spec:
  restartPolicy: Never
  securityContext:
    sysctls:
    - {name: net.ipv4.ip_local_port_range, value: "20000 30000"}
    - {name: net.ipv4.tcp_syncookies, value: "0"}
    - {name: kernel.shm_rmid_forced, value: "1"}
    supplementalGroups: [3000]
    fsGroup: 4000
  containers:
  - name: plain
    image: IMAGE
    command: [sh, -c, "TELL"]
  - name: user
    image: IMAGE
    securityContext: {runAsUser: 1000, runAsGroup: 2000, runAsNonRoot: true, allowPrivilegeEscalation: false}
    command: [sh, -c, "TELL"]
  - name: few
    image: IMAGE
    securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}, readOnlyRootFilesystem: true}
    command: [sh, -c, "TELL"]
  - name: more
    image: IMAGE
    securityContext: {capabilities: {add: [SYS_TIME, NET_ADMIN]}, procMount: Default}
    command: [sh, -c, "TELL"]
  - name: default
    image: IMAGE
    securityContext: {seccompProfile: {type: RuntimeDefault}}
    command: [sh, -c, "TELL"]
  - name: local
    image: IMAGE
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: profiles/no-mkdir.json}}
    command: [sh, -c, "TELL"]
  - name: unconfined
    image: IMAGE
    securityContext: {seccompProfile: {type: Unconfined}}
    command: [sh, -c, "TELL"]
  - name: kernel
    image: IMAGE
    command: [sh, -c, "cd /proc/sys; echo range=$(cat net/ipv4/ip_local_port_range); echo cookies=$(cat net/ipv4/tcp_syncookies); echo rmid=$(cat kernel/shm_rmid_forced); echo end"]
  - name: rootless
    image: IMAGE
    securityContext: {runAsNonRoot: true}
---
apiVersion: v1
kind: Pod
metadata: {name: merge}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 65534, supplementalGroups: [3000], supplementalGroupsPolicy: Merge}
  containers: [{name: main, image: IMAGE, command: [sh, -c, "echo groups=$(id -G); echo end"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: strict}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 65534, supplementalGroups: [3000], supplementalGroupsPolicy: Strict}
  containers: [{name: main, image: IMAGE, command: [sh, -c, "echo groups=$(id -G); echo end"]}]
`

// unsafe asks for a sysctl that Pods cannot set.
const unsafe = `
apiVersion: v1
kind: Pod
metadata: {name: unsafe}
spec:
  securityContext: {sysctls: [{name: kernel.msgmax, value: "65536"}]}
  containers: [{name: main, image: IMAGE}]
`

// noMkdir forbids one system call with an error that no other refusal has.
const noMkdir = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`

const (
	capabilitiesDefault = "00000000a80425fb" // what every container runtime leaves a container
	capabilityBind      = "0000000000000400" // NET_BIND_SERVICE
	capabilitiesMore    = "00000000aa0435fb" // the default, NET_ADMIN and SYS_TIME
)

func TestSecurityContexts(t *testing.T) {
	shared.OwnHost(t, "a seccomp profile is put into it")
	s := newSpace(t, 5*time.Minute)
	dir := s.Host.Path(filepath.Join(datadir.Dir("/var/lib/nodeless").Kubelet(), "seccomp", "profiles"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "no-mkdir.json"), []byte(noMkdir), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Apply(withScript(contexts, tell))

	for container, wanted := range map[string]map[string]string{
		"plain": {
			"uid": "0", "gid": "0", "groups": "0 3000 4000", "CapEff": capabilitiesDefault, "CapBnd": capabilitiesDefault, "NoNewPrivs": "0",
			"Seccomp": "0", "write": "done", "mkdir": "done", "sysctl": "Read-only file system",
			"kcore": "0", "firmware": "0",
		},
		"user": {
			"uid": "1000", "gid": "2000", "groups": "2000 3000 4000", "CapEff": "0000000000000000", "NoNewPrivs": "1",
			"write": "touch: /file: Permission denied",
		},
		"few":        {"CapEff": capabilityBind, "CapBnd": capabilityBind, "write": "touch: /file: Read-only file system"},
		"more":       {"CapEff": capabilitiesMore, "kcore": "0"},
		"default":    {"Seccomp": "2", "unshare": "Operation not permitted", "mkdir": "done"},
		"local":      {"Seccomp": "2", "mkdir": "mkdir: can't create directory '/tmp/new': No space left on device"},
		"unconfined": {"Seccomp": "0", "mkdir": "done"},
		"kernel":     {"range": "20000 30000", "cookies": "0", "rmid": "1"},
	} {
		want(t, container, s.facts("contexts", container), wanted)
	}
	want(t, "groups of the image and the Pod", s.facts("merge", "main"), map[string]string{"groups": "65534 3000 4242"})
	want(t, "groups of the Pod only", s.facts("strict", "main"), map[string]string{"groups": "65534 3000"})

	s.Pod("contexts", "refuses root where the Pod wants none", func(pod *corev1.Pod) bool {
		w := status(pod, "rootless").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "runAsNonRoot")
	})
	if out, code := s.TryApply(unsafe); code == 0 || !strings.Contains(out, "spec.securityContext.sysctls[0]") {
		t.Errorf("the Pod with an unsafe sysctl: code %d, %s", code, out)
	}
}

const privileged = `
apiVersion: v1
kind: Pod
metadata: {name: privileged}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    securityContext: {privileged: true}
    command:
    - sh
    - -c
    - |
      mkdir /mnt; mount -t tmpfs none /mnt && touch /mnt/file && echo mount=done
      echo sysctl=$(sysctl -q -w kernel.shmmni=4098 && cat /proc/sys/kernel/shmmni)
      echo kernel=$(uname -r)
      echo scratch=$(grep -l scratch /sys/block/*/serial | wc -l)
      echo disks=$(ls /dev | grep -c ^vd)
      echo kmsg=$(test -c /dev/kmsg && echo there)
      echo kvm=$(ls /dev/kvm 2>/dev/null)
      echo modules=$(ls /lib/modules 2>/dev/null | wc -l)
      echo end
      exec sleep 1000
`

// TestPrivilegedIsPrivilegedInItsMicroVM: it may do all to its guest, and there is nothing of the host to do it to.
func TestPrivilegedIsPrivilegedInItsMicroVM(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(privileged)
	got := s.facts("privileged", "main")
	want(t, "privileged container", got, map[string]string{"mount": "done", "sysctl": "4098", "scratch": "1", "kmsg": "there", "kvm": "", "modules": "0"})
	host, err := s.Host.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if got["kernel"] == strings.TrimSpace(string(host)) {
		t.Errorf("its kernel is the host's, %s", got["kernel"])
	}
	if got["disks"] == "0" {
		t.Error("it does not see the disks of its guest in /dev")
	}
}

// TestHostNamespaces: the host of a Pod is its microVM, and what cannot be had is refused with what to do.
func TestHostNamespaces(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	cmd := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  hostPID: true
  hostIPC: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: IMAGE, env: [{name: PORT, value: "8085"}], ports: [{containerPort: 8085}]}
  - {name: other, image: IMAGE, command: [sleep, "1000"]}
`, "IMAGE", testcluster.Image))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/host: host namespaces (network, pid, ipc): the host of a Pod is its microVM") {
		t.Errorf("apply: %v, %s; want a warning", err, out)
	}
	pod := s.Ready("host")
	if pod.Status.PodIP == pod.Status.HostIP {
		t.Errorf("its address is the host's, %s, where nothing of it listens", pod.Status.PodIP)
	}
	s.Until("the host reaches the Pod", func() (bool, error) { // without a probe it is ready before it listens
		_, err := s.get("http://" + pod.Status.PodIP + ":8085/")
		return err == nil, err
	})
	if got := s.inContainer("other", "host", "ps -o args"); !strings.Contains(got, "/hello") {
		t.Errorf("it sees %q, want the processes of its other container", got)
	}
	if got := s.inContainer("other", "host", "/hello resolve kubernetes.default.svc"); !strings.Contains(got, "10.43.0.1") {
		t.Errorf("the apiserver's name resolves to %q", got)
	}
	for field, words := range map[string][]string{
		"hostUsers: false": {"spec.hostUsers", "remove the field"},
		"containers: [{name: main, image: x, securityContext: {procMount: Unmasked}}]": {"procMount", "hostUsers"},
	} {
		containers := "  containers: [{name: main, image: x}]\n"
		if strings.HasPrefix(field, "containers") {
			containers = ""
		}
		manifest := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: refused}\nspec:\n%s  %s\n", containers, field)
		if err := s.Host.Apply(s.Ctx, manifest); err == nil || !hasAll(err.Error(), words) {
			t.Errorf("a Pod with %s: %v, want a refusal with %q", field, err, words)
		}
	}
}
