package vm_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const livePod = `
apiVersion: v1
kind: Pod
metadata: {name: live, labels: {stage: one}, annotations: {note: first}}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    resources: {requests: {memory: 20Mi}, limits: {memory: 32Mi}}
    env:
    - {name: STAGE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['stage']"}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /part, subPath: a}
    - {name: all, mountPath: /all}
    - {name: pod, mountPath: /pod}
  - name: settings
    image: IMAGE
    command: [/hello, same, /settings, two]
    volumeMounts: [{name: settings, mountPath: /settings}]
  - name: keys
    image: IMAGE
    command: [/hello, same, /keys, two]
    volumeMounts: [{name: keys, mountPath: /keys}]
  - name: notice
    image: IMAGE
    command: [/hello, notice, /all]
    volumeMounts: [{name: all, mountPath: /all}]
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: pod, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: notes, fieldRef: {fieldPath: metadata.annotations}},
      {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory}}]}}
  - name: all
    projected:
      defaultMode: 0440
      sources:
      - configMap: {name: settings, items: [{key: a, path: from/configmap}]}
      - secret: {name: keys, items: [{key: a, path: from/secret, mode: 0400}]}
      - configMap: {name: absent, optional: true}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - serviceAccountToken: {path: token, audience: test, expirationSeconds: 3600}
`

// filled is a ConfigMap and a Secret with several files that all hold one text.
func filled(text string, keys ...string) string {
	var plain, encoded strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&plain, "  %s: %s\n", k, text)
		fmt.Fprintf(&encoded, "  %s: %s\n", k, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata:\n" + plain.String() +
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\ndata:\n" + encoded.String()
}

func TestVolumesAreUpdatedAtOnce(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(filled("one", "a", "b", "c", "d", "e", "f", "g"))
	s.Apply(livePod)
	pod := s.Pod("live", "runs", func(pod *corev1.Pod) bool {
		running := 0
		for _, c := range pod.Status.ContainerStatuses {
			if c.State.Running != nil {
				running++
			}
		}
		return running == len(pod.Spec.Containers)
	})
	s.checks("live", "main",
		check{"a label in the environment", "echo $STAGE", "one"},
		check{"a limit in the environment", "echo $MEMORY; cat /pod/limit", "32\n33554432"},
		check{"the node's address in the environment", "echo $HOST", pod.Status.HostIP},
		check{"labels in a file", "cat /pod/labels", `stage="one"`},
		check{"annotations in a file", "grep -c 'note=\"first\"' /pod/notes", "1"},
		check{"several sources in one volume", "cat /all/from/configmap /all/from/secret /all/name", "oneonelive"},
		check{"their modes", "stat -L -c %a /all/from/configmap /all/from/secret", "440\n400"},
		check{"a token among them", "tr -cd . < /all/token", ".."},
	)
	s.Apply(filled("two", "a", "b", "c", "d", "e", "f", "new"))
	s.Kubectl("label", "pod", "live", "stage=two", "--overwrite") // the kubelet looks at the Pod again, and at its volumes
	for _, name := range []string{"settings", "keys"} {
		pod := s.Pod("live", "has seen its "+name+" change", func(pod *corev1.Pod) bool { return ended(pod, name) != nil })
		if end := ended(pod, name); end.ExitCode != 0 {
			t.Errorf("container %s ended with %d: %s", name, end.ExitCode, s.Kubectl("logs", "live", "-c", name))
		}
	}
	s.Until("the labels are in the file", func() (bool, error) {
		got := s.MustExec("live", "cat", "/pod/labels")
		return got == `stage="two"`, fmt.Errorf("it holds %s", got)
	})
	s.checks("live", "main",
		check{"names come and go", "ls /settings | tr '\\n' ' '", "a b c d e f new"},
		check{"a part stays as it was mounted", "cat /part", "one"},
		check{"the environment stays as it was", "echo $STAGE", "one"},
		check{"a projected volume follows", "cat /all/from/configmap /all/from/secret", "twotwo"},
		check{"it cannot be written", "echo x 2>&1 > /settings/a; true", "sh: can't create /settings/a: Read-only file system"},
	)
	if got := s.Kubectl("logs", "live", "-c", "notice"); !strings.Contains(got, "..data\n") {
		t.Errorf("a program that waits for changes (inotify) was told %q, want ..data among it", got)
	}
}

// ended is how a container of a Pod ended, nil while it has not.
func ended(pod *corev1.Pod, container string) *corev1.ContainerStateTerminated {
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == container {
			return c.State.Terminated
		}
	}
	return nil
}
