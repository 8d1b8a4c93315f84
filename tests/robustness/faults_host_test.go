package robustness_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// web is a Deployment of one Pod.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: IMAGE}]
`

// TestFaultPowerCut: everything on the host stops at one moment, and the last pages that were written did not reach the
// disk. The cluster comes back and its Pods run again.
func TestFaultPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: `make robustness` runs it")
	}
	c := newCluster(t, testbed.Options{})
	s := newSpace(t, c, 15*time.Minute)
	s.Apply(web)
	s.Apply(testcluster.Sleeper("alone", ""))
	s.Pods("app=web", 1)
	boot := s.MustExec(s.Ready("alone").Name, "cat", "/proc/sys/kernel/random/boot_id")
	w := newWriters(t, s)
	for i := range count(3, 1) {
		stop := w.write(16)
		goal := w.count() + 200
		s.Until("writes are acknowledged", func() (bool, error) { return w.count() >= goal, nil })
		if err := s.Host.PowerCut(); err != nil {
			t.Fatal(err)
		}
		stop()
		_, seen, _ := w.newest()
		torn := tear(t, database(s.Cluster)+"-wal")
		began := time.Now()
		if err := s.Start(s.Ctx); err != nil {
			t.Fatalf("start after the power cut: %v", err)
		}
		s.Until("the Pod runs in a new microVM", func() (bool, error) {
			out, code := s.Exec("alone", "cat", "/proc/sys/kernel/random/boot_id")
			now := strings.TrimSpace(out)
			if code != 0 || now == boot {
				return false, nil
			}
			boot = now
			return true, nil
		})
		s.Ready("alone")
		s.Pods("app=web", 1)
		lost, last, err := w.lost(s.Ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("cut %d: Pods run again after %s; %d bytes of the log torn, %d of %d acknowledged writes with them", i, time.Since(began).Round(100*time.Millisecond), torn, len(lost), w.count())
		if last == 0 {
			t.Error("everything is lost")
		}
		s.mustExpire(seen)
		w.forget(lost)
	}
}

// TestFaultDataDirFull: the data dir has no room left. The server says so, refuses what it cannot keep, loses nothing
// that it has acknowledged, and goes on when there is room again.
func TestFaultDataDirFull(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: `make robustness` runs it")
	}
	c := newCluster(t, testbed.Options{DataSize: 3 << 30}, "--snapshot-interval=0")
	s := newSpace(t, c, 10*time.Minute)
	w := newWriters(t, s)
	if err := w.one(s.Ctx); err != nil {
		t.Fatal(err)
	}
	const filler = "/var/lib/nodeless/filler"
	s.Host.Exec(s.Ctx, "dd", "if=/dev/zero", "of="+filler, "bs=64k") //nolint:errcheck // it ends when the disk is full

	var refusal error
	s.Until("a write is refused", func() (bool, error) { refusal = w.one(s.Ctx); return refusal != nil, nil })
	if !strings.Contains(refusal.Error(), "full") {
		t.Errorf("the refusal is %q, want that the disk is full", refusal)
	}
	s.untilLog("database cannot be written")
	w.mustKeepAll(t, s.Ctx) // reads go on
	if _, err := s.Host.Exec(s.Ctx, "rm", filler); err != nil {
		t.Fatal(err)
	}
	s.untilAPI(w)
	s.untilLog("database can be written again")
	w.mustKeepAll(t, s.Ctx)

	// A server that is started on a full disk says what to do, and starts when that is done.
	s.Host.Exec(s.Ctx, "dd", "if=/dev/zero", "of="+filler, "bs=64k") //nolint:errcheck // it ends when the disk is full
	if err := s.Kill(s.Ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Launch(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Ctx, time.Minute)
	defer cancel()
	err := s.Server.Wait(ctx)
	if tail := s.Server.Tail(5); err == nil || !strings.Contains(tail, "0.0 GiB free") && !strings.Contains(tail, "no space left") && !strings.Contains(tail, "full") || !strings.Contains(tail, "hint:") {
		t.Errorf("start on a full disk: %v, want what is wrong and what to do:\n%s", err, tail)
	}
	if _, err := s.Host.Exec(s.Ctx, "rm", filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(s.Ctx); err != nil {
		t.Fatal(err)
	}
	w.mustKeepAll(t, s.Ctx)
}

// untilLog waits until the server has logged the text.
func (s *space) untilLog(text string) {
	s.T.Helper()
	s.Until("the log says "+text, func() (bool, error) {
		log, err := os.ReadFile(s.Server.Log)
		return bytes.Contains(log, []byte(text)), err
	})
}

// TestFaultHostLost: a host is gone for good. Its cluster is restored from a backup on a host of another name: objects,
// Secrets and Pods are there, the old Node is not.
func TestFaultHostLost(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: `make robustness` runs it")
	}
	const archive, secret = "/var/lib/backup.age", "/var/lib/passphrase"
	lost := newCluster(t, testbed.Options{Hostname: "alpha"})
	a := newSpace(t, lost, 10*time.Minute)
	a.Kubectl("create", "secret", "generic", "s", "--from-literal=k=sesame")
	a.Apply(web)
	a.Apply(testcluster.Sleeper("alone", ""))
	a.Pods("app=web", 1)
	a.Ready("alone")
	if err := os.WriteFile(a.Host.Path(secret), []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := a.Host.Nodeless(a.Ctx, "backup", "--passphrase-file", secret, archive); err != nil {
		t.Fatalf("backup of a running server: %v %s", err, out)
	}
	data, err := os.ReadFile(a.Host.Path(archive))
	if err != nil {
		t.Fatal(err)
	}
	before := a.Ready("alone").Spec.NodeName
	if err := lost.Close(); err != nil { // after this the first space removes nothing: its server has ended
		t.Fatal(err)
	}

	host := newHost(t, testbed.Options{Hostname: "beta"})
	c := &testcluster.Cluster{Host: host}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, text := range map[string][]byte{archive: data, secret: []byte("correct horse battery\n")} {
		if err := os.WriteFile(host.Path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := host.Nodeless(t.Context(), "restore", "--passphrase-file", secret, "--with-config", archive); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &space{testcluster.Space{Cluster: c, T: t, Ctx: a.Ctx, Name: a.Name}}
	s.Pods("app=web", 1)
	s.Ready("alone")
	s.Until("exec reaches the Pod", func() (bool, error) { // what the backup says of it is older than its new microVM
		out, code := s.Exec("alone", "true")
		return code == 0, fmt.Errorf("code %d: %s", code, out)
	})
	t.Logf("Pods run on the other host %s after its server was started", time.Since(began).Round(100*time.Millisecond))
	kept, err := s.Client.CoreV1().Secrets(s.Name).Get(s.Ctx, "s", metav1.GetOptions{})
	if err != nil || string(kept.Data["k"]) != "sesame" {
		t.Errorf("Secret: %v, %v", kept, err)
	}
	s.Until("only the new Node is there", func() (bool, error) {
		nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
		return err == nil && len(nodes.Items) == 1 && nodes.Items[0].Name != before, err
	})
	s.Until("an event tells of the restore", func() (bool, error) {
		list, err := s.Client.CoreV1().Events(corev1.NamespaceDefault).List(s.Ctx, metav1.ListOptions{FieldSelector: "reason=ClusterRestored"})
		return err == nil && len(list.Items) == 1, err
	})
	if _, err := os.Stat(host.Path("/var/lib/nodeless/server/restored.json")); err == nil {
		t.Error("the note of the restore is still there: the next start would do it all again")
	}
	for _, args := range [][]string{{"restore", archive}, {"restore", "--force", archive}} {
		if out, err := host.Nodeless(s.Ctx, args...); err == nil || !strings.Contains(err.Error(), "another server runs on it") {
			t.Errorf("%q beside a running server: %v %s", args, err, out)
		}
	}
	if kept, err := filepath.Glob(host.Path("/var/lib/nodeless/.restore-*")); err != nil || len(kept) > 0 {
		t.Errorf("left behind: %q, %v", kept, err)
	}
}
