package vm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const volumesPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, motto: "plain code"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: swordfish}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 2000}
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, "echo from-init > /scratch/init"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo from-main > /scratch/main; while :; do sleep 1; done"]
    env:
    - {name: PLAIN, value: text}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: token, mountPath: /token}
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
  - name: other
    image: IMAGE
    command: [sh, -c, "while :; do sleep 1; done"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - name: token
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: test, expirationSeconds: 3600}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
`

func TestEnvironmentAndVolumes(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(volumesPod)
	pod := s.Ready("volumes")
	tests := []struct{ name, command, want string }{
		{"plain env", "echo $PLAIN", "text"},
		{"env from a ConfigMap", "echo $COLOUR", "blue"},
		{"env from a Secret", "echo $PASSWORD", "swordfish"},
		{"env from the Pod's address", "echo $POD_IP", pod.Status.PodIP},
		{"env from the Pod's node", "echo $NODE", pod.Spec.NodeName},
		{"host name is the Pod's name", "hostname", "volumes"},
		{"a ConfigMap's files", "cat /settings/colour /settings/motto", "blueplain code"},
		{"a Secret's file", "cat /keys/password", "swordfish"},
		{"a Secret's mode, with the group of the Pod", "stat -L -c %a /keys/password", "440"},
		{"a projected name", "cat /token/name", "volumes"},
		{"a projected token is a JWT", "tr -cd . < /token/token", ".."},
		{"what an init container wrote", "cat /scratch/init", "from-init"},
		{"a memory volume is a tmpfs", "stat -f -c %T /memory", "tmpfs"},
		{"a memory volume is writable", "echo x > /memory/x && cat /memory/x", "x"},
		{"the service account's own token", "ls /var/run/secrets/kubernetes.io/serviceaccount", "ca.crt\nnamespace\ntoken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, code := s.Exec("volumes", "sh", "-c", tt.command); code != 0 || strings.TrimSpace(got) != tt.want {
				t.Errorf("%s prints %q with code %d, want %q", tt.command, got, code, tt.want)
			}
		})
	}
	if got := strings.TrimSpace(s.Kubectl("exec", "volumes", "-c", "other", "--", "cat", "/scratch/main")); got != "from-main" {
		t.Errorf("the other container reads %q from the shared folder, want from-main", got)
	}
	if out, code := s.Exec("volumes", "sh", "-c", "echo x > /keys/new"); code == 0 {
		t.Errorf("a read-only Secret volume can be written: %s", out)
	}
}

func TestConfigMapChangeArrives(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Kubectl("create", "configmap", "settings", "--from-literal=colour=blue")
	s.Apply(testcluster.Sleeper("a", `    volumeMounts: [{name: settings, mountPath: /settings}]
  volumes: [{name: settings, configMap: {name: settings}}]
`))
	s.Ready("a")
	if got := s.MustExec("a", "cat", "/settings/colour"); got != "blue" {
		t.Fatalf("colour is %q, want blue", got)
	}
	s.Kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"green"}}`)
	s.Until("the change is in the Pod", func() (bool, error) { // the kubelet looks once a minute
		got, _ := s.Exec("a", "cat", "/settings/colour")
		return strings.TrimSpace(got) == "green", nil
	})
}

func TestWritableRootIsThePodsOwn(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(testcluster.Sleeper("a", ""))
	s.Ready("a")
	// More than the guest has memory: it must go to the scratch disk.
	s.MustExec("a", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=400 2>/dev/null && rm /big")
	size := s.MustExec("a", "sh", "-c", "df -m / | tail -1 | awk '{print $2}'")
	if len(size) < 5 { // 20 GiB are 20480 MB
		t.Errorf("the root file system has %s MB, want about 20 GiB", size)
	}
}
