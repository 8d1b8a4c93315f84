package vm_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// disksDir is a folder of the test host that plays disks; DIR in manifests.
const disksDir = "/var/lib/nodeless/test-disks"

// disks are volumes made by hand: a StorageClass without a provisioner, a local one for each of the two kinds of claim.
const disks = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: by-hand}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-one}
spec:
  capacity: {storage: 3Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  local: {path: DIR/one}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: Exists}]}]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-two}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: DIR/two, type: Directory}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, resources: {requests: {storage: 2Gi}}}
---
`

// keeperPod uses the claim; the first of them brings the other kinds of volumes along.
const keeperPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 2000, fsGroupChangePolicy: %s}
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /part, subPath: kept/deep}
%s  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
%s`

const (
	keeperMounts = `    - {name: own, mountPath: /own}
    - {name: empty, mountPath: /empty}
    - {name: host, mountPath: /host}
    - {name: host, mountPath: /host-to-read, readOnly: true}
    - {name: tools, mountPath: /tools}
    - {name: memory, mountPath: /memory}
    - {name: memory, mountPath: /memory-to-read, readOnly: true}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys}
    - {name: about, mountPath: /about}
`
	keeperVolumes = `  - {name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: by-hand, resources: {requests: {storage: 1Gi}}}}}}
  - {name: empty, emptyDir: {}}
  - {name: host, hostPath: {path: DIR/host, type: DirectoryOrCreate}}
  - {name: tools, image: {reference: IMAGE, pullPolicy: IfNotPresent}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
  - {name: about, downwardAPI: {items: [{path: file, fieldRef: {fieldPath: metadata.name}}]}}
`
)

func TestPersistentVolumesOutliveTheirPods(t *testing.T) {
	shared.OwnHost(t, "its server must allow a folder of the host to Pods")
	s := newSpace(t, 9*time.Minute+filesTime()+time.Duration(largeMB(t)/64)*20*time.Second)
	host := func(script string) string {
		out, err := s.Host.Exec(s.Ctx, "/bin/sh", "-c", strings.ReplaceAll(script, "DIR", disksDir))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	// Disk one looks as if an fsGroup had been set already, but for one file in it.
	host("mkdir -p DIR/one DIR/two DIR/host && chgrp 2000 DIR/one && chmod 2775 DIR/one && echo old > DIR/one/old && chgrp 7 DIR/one/old && echo host > DIR/host/file")
	t.Cleanup(func() {
		s.Kubectl("delete", "pods", "--all", "--wait=true")
		s.Kubectl("delete", "pvc", "--all", "--wait=false")
		s.Kubectl("delete", "pv/disk-one", "pv/disk-two", "storageclass/by-hand", "--wait=false")
		host("rm -rf DIR")
	})
	apply := func(manifest string) { s.Apply(strings.ReplaceAll(manifest, "DIR", disksDir)) }
	s.Kubectl("create", "configmap", "settings", "--from-literal=file=host")
	s.Kubectl("create", "secret", "generic", "keys", "--from-literal=file=swordfish")
	apply(disks + fmt.Sprintf(keeperPod, "first", "OnRootMismatch", keeperMounts, keeperVolumes))
	s.Ready("first")
	claim, err := s.Client.CoreV1().PersistentVolumeClaims(s.Name).Get(s.Ctx, "first-own", metav1.GetOptions{})
	if err != nil || claim.Status.Phase != corev1.ClaimBound || len(claim.OwnerReferences) != 1 || claim.OwnerReferences[0].Name != "first" {
		t.Fatalf("the claim of the Pod's own volume is %+v, %v; want it bound and owned by the Pod", claim, err)
	}
	s.checks("first", "main",
		check{"a group that fits at the root is left alone below", "stat -c %g /data /data/old", "2000\n7"},
		check{"a volume of the Pod's own", "echo own > /own/file && cat /own/file", "own"},
		check{"a part of a claim", "echo kept > /part/file; cat /data/kept/deep/file", "kept"},
		check{"a folder of the host", "cat /host/file; echo guest > /host/guest", "host"},
		check{"a folder of the host to read", "echo x 2>&1 > /host-to-read/file; cat /host-to-read/guest", "sh: can't create /host-to-read/file: Read-only file system\nguest"},
		check{"an image as a volume", "cmp /tools/hello /hello && echo same; echo x 2>&1 > /tools/x; true", "same\nsh: can't create /tools/x: Read-only file system"},
		check{"a program of an image volume", "/tools/hello resolve 127.0.0.1", "127.0.0.1"},
	)
	if got := host("cat DIR/host/guest"); got != "guest" {
		t.Errorf("the host reads %q from the file that the Pod has written, want guest", got)
	}
	t.Run("files are as on a local disk", func(t *testing.T) { s.with(t).filesAsOnADisk("first") })
	s.largeFiles("first", "/root", "/empty", "/host", "/data", "/own")

	s.Kubectl("delete", "pod", "first", "--wait=true")
	s.Until("the claim of the Pod's own volume is gone with it", func() (bool, error) {
		_, err := s.Client.CoreV1().PersistentVolumeClaims(s.Name).Get(s.Ctx, "first-own", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
	if got := host("cat DIR/one/kept/deep/file DIR/two/file"); got != "kept\nown" {
		t.Errorf("on the disks is %q after the Pod has gone, want what it wrote", got)
	}
	apply(fmt.Sprintf(keeperPod, "second", "Always", "", ""))
	s.Ready("second")
	s.checks("second", "main",
		check{"what the other Pod wrote", "cat /part/file; stat -c %s /data/large", fmt.Sprint("kept\n", largeMB(t)<<20+len(largeTail))},
		check{"a group is set everywhere", "stat -c %g /data/old", "2000"},
	)
}

const largeTail = "the end"

// largeFiles writes a large file into each folder, reads it back, and says how fast that was.
func (s *space) largeFiles(pod string, dirs ...string) {
	mb := largeMB(s.T)
	sum := md5.New()
	if _, err := io.CopyN(sum, zeros{}, int64(mb)<<20); err != nil {
		s.T.Fatal(err)
	}
	sum.Write([]byte(largeTail))
	want := hex.EncodeToString(sum.Sum(nil))
	for _, dir := range dirs {
		start := time.Now()
		s.in(pod, "main", fmt.Sprintf("dd if=/dev/zero of=%[1]s/large bs=4M count=%d conv=fsync 2>/dev/null && printf '%s' >> %[1]s/large", dir, mb/4, largeTail))
		written := time.Since(start)
		got, _, _ := strings.Cut(s.in(pod, "main", fmt.Sprintf("md5sum %s/large", dir)), " ")
		if got != want {
			s.T.Errorf("%s: %d MB read back have the sum %s, want %s", dir, mb, got, want)
		}
		s.T.Logf("%s: %d MB written in %v, read and summed in %v", dir, mb, written.Round(10*time.Millisecond), (time.Since(start) - written).Round(10*time.Millisecond))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
