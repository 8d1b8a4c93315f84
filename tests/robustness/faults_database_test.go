package robustness_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// leap is the least by which revisions jump when writes that clients have seen may be gone.
const leap = 500_000_000

// database is the machine's path of the host's database. It is below the host's data folder, which the machine sees
// whether the host runs or not.
func database(c *testcluster.Cluster) string {
	return filepath.Join(c.Host.Root, "data", "server", "db", "state.db")
}

// TestFaultDatabaseTruncated: the server is stopped and half of its database is gone.
func TestFaultDatabaseTruncated(t *testing.T) {
	damageDatabase(t, func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	})
}

// TestFaultDatabaseBitFlip: one bit inside a stored object changes while the server is stopped, where SQLite has no
// checksum.
func TestFaultDatabaseBitFlip(t *testing.T) {
	damageDatabase(t, func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(data, []byte(afterSnapshot))
		if at < 0 {
			return errors.New("the object is not in the file")
		}
		return overwrite(path, int64(at), []byte{data[at] ^ 0x10})
	})
}

// TestFaultDatabaseReplaced: the file is something else altogether.
func TestFaultDatabaseReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: `make robustness` runs it; the package datastore tests the same on files")
	}
	damageDatabase(t, func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("?"), 1<<16), 0o600) })
}

func overwrite(path string, at int64, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Close())
}

// afterSnapshot is in an object that the snapshot does not have.
const afterSnapshot = "written-after-the-snapshot"

// damageDatabase stops the server, damages its database, and starts it again: it must come back by itself with the last
// good snapshot, say so, leave Pods alone, and never serve clients new writes under revisions that they know. After a
// kill the write-ahead log would still have much of what the file has lost, which makes for no certain outcome.
func damageDatabase(t *testing.T, damage func(path string) error) {
	s := newSpace(t, sharedCluster(t), 10*time.Minute)
	s.Apply(testcluster.Sleeper("witness", ""))
	before := *s.Ready("witness")
	boot := s.MustExec("witness", "cat", "/proc/sys/kernel/random/boot_id")
	s.untilSnapshot(s.configMap("kept", "x"))
	seen := s.configMap("after", strings.Repeat(afterSnapshot, 20))

	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := damage(database(s.Cluster)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(s.Ctx); err != nil {
		t.Fatalf("start with a damaged database: %v", err)
	}
	if _, err := s.Client.CoreV1().ConfigMaps(s.Name).Get(s.Ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("an object of the snapshot: %v", err)
	}
	if _, err := s.Client.CoreV1().ConfigMaps(s.Name).Get(s.Ctx, "after", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object that was written after the snapshot: %v, want that there is none", err)
	}
	if now := s.configMap("new", "y"); now < seen+leap {
		t.Errorf("a new write has revision %d, clients have seen %d: no leap", now, seen)
	}
	s.mustExpire(seen)
	mustRunOn(t, s, before, boot)
	s.mustTell()
}

// configMap creates one and gives its revision.
func (s *space) configMap(name, value string) int64 {
	s.T.Helper()
	made, err := s.Client.CoreV1().ConfigMaps(s.Name).Create(s.Ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": value},
	}, metav1.CreateOptions{})
	if err != nil {
		s.T.Fatal(err)
	}
	rev, err := strconv.ParseInt(made.ResourceVersion, 10, 64)
	if err != nil {
		s.T.Fatal(err)
	}
	return rev
}

// untilSnapshot waits until a snapshot has the revision.
func (s *space) untilSnapshot(rev int64) {
	s.T.Helper()
	s.Until(fmt.Sprintf("a snapshot has revision %d", rev), func() (bool, error) {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(database(s.Cluster)), "snapshots", "state-*.db"))
		for _, f := range files {
			part := strings.Split(filepath.Base(f), "-")
			if got, err := strconv.ParseInt(strings.TrimPrefix(part[2], "r"), 10, 64); err == nil && got >= rev {
				return true, nil
			}
		}
		return false, errors.Join(err, fmt.Errorf("there are %q", files))
	})
}

// mustExpire: a client that goes on watching from a revision of the lost history is told to list again.
func (s *space) mustExpire(rev int64) {
	s.T.Helper()
	w, err := s.Client.CoreV1().ConfigMaps(s.Name).Watch(s.Ctx, metav1.ListOptions{ResourceVersion: strconv.FormatInt(rev, 10)})
	if err != nil {
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			s.T.Errorf("watch from lost revision %d: %v, want that it has expired", rev, err)
		}
		return
	}
	defer w.Stop()
	select {
	case e := <-w.ResultChan():
		if status, ok := e.Object.(*metav1.Status); !ok || status.Code != 410 {
			s.T.Errorf("watch from lost revision %d gave %s %v, want 410 Gone", rev, e.Type, e.Object)
		}
	case <-time.After(10 * time.Second):
		s.T.Errorf("watch from lost revision %d waits for news as if nothing had happened", rev)
	}
}

// mustTell: the log is loud, an event says it, and the damaged file is kept.
func (s *space) mustTell() {
	s.T.Helper()
	log, err := os.ReadFile(s.Server.Log)
	if err != nil {
		s.T.Fatal(err)
	}
	if !bytes.Contains(log, []byte("DATABASE DAMAGED")) {
		s.T.Errorf("the log does not say that the database was damaged:\n%s", s.Server.Tail(30))
	}
	s.Until("an event tells of the damage", func() (bool, error) {
		list, err := s.Client.CoreV1().Events("default").List(s.Ctx, metav1.ListOptions{FieldSelector: "reason=DatabaseDamaged,type=Warning,involvedObject.kind=Node"})
		return err == nil && len(list.Items) > 0, err
	})
	if kept, err := filepath.Glob(database(s.Cluster) + ".damaged-*"); err != nil || len(kept) == 0 {
		s.T.Errorf("damaged file: %q, %v", kept, err)
	}
}

// TestFaultLogTorn: the server dies under writes and the end of its write-ahead log is garbage. What was written before
// is kept, without a hole, and no snapshot is needed.
func TestFaultLogTorn(t *testing.T) {
	s := newSpace(t, sharedCluster(t), 10*time.Minute)
	w := newWriters(t, s)
	stop := w.write(16)
	s.Until("writes are acknowledged", func() (bool, error) { return w.count() >= 300, nil })
	if err := s.Kill(s.Ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	log := database(s.Cluster) + "-wal"
	torn := tear(t, log)
	if torn == 0 {
		t.Skip("skipped: the log was copied into the database just before the kill")
	}
	if err := s.Start(s.Ctx); err != nil {
		t.Fatalf("start with a torn log: %v", err)
	}
	lost, last, err := w.lost(s.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("tore %d bytes off the log: %d of %d acknowledged writes are lost", torn, len(lost), w.count())
	if len(lost) == w.count() {
		t.Error("everything is lost")
	}
	for name, version := range lost {
		if rev, _ := strconv.ParseInt(version, 10, 64); rev < last {
			t.Errorf("%s, revision %s, is lost although revision %d is there", name, version, last)
		}
	}
	if len(lost) > 0 && s.configMap("new", "x") < last+leap {
		t.Error("revisions of the lost writes are used again")
	}
	if text, err := os.ReadFile(s.Server.Log); err != nil || bytes.Contains(text, []byte("DATABASE DAMAGED")) || !bytes.Contains(text, []byte("may lack its last writes")) {
		t.Errorf("log, %v:\n%s", err, s.Server.Tail(30))
	}
}

// tear overwrites the last pages that were written to a write-ahead log. The file may be longer than the log: SQLite
// writes it from the start again once all is copied. It gives the number of bytes it spoiled, 0 if the log had
// just been copied into the database.
func tear(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header, frame = 32, 24 + 4096
	salts, end := data[16:24], header
	for end+frame <= len(data) && bytes.Equal(data[end+8:end+16], salts) {
		end += frame
	}
	spoil := min(60*frame, end-header) - 1000 // from inside a page on
	if spoil <= 0 {
		return 0
	}
	if err := overwrite(path, int64(end-spoil), bytes.Repeat([]byte{0xdb}, spoil)); err != nil {
		t.Fatal(err)
	}
	return spoil
}
