package orphans

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeless/nodeless/pkg/teardown"
)

// TestOrphansAreRemovedAtTheSecondLook: what a dead shim leaves while the server runs goes, but not before it had time to
// be somebody's after all.
func TestOrphansAreRemovedAtTheSecondLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		write := func(path string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, path), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		there := func(path string) bool {
			_, err := os.Stat(filepath.Join(root, path))
			return err == nil
		}
		write("proc/self/mountinfo")
		before, orphan := "scratch/"+strings.Repeat("0a", 32)+".ext4", "scratch/"+strings.Repeat("0b", 32)+".ext4"
		write(before)
		ctx, cancel := context.WithCancel(t.Context())
		write("bundle/00000000000000aa/bin/nodeless")
		write("bundle/00000000000000bb/bin/nodeless") // of an earlier version
		if err := os.Symlink("00000000000000aa", filepath.Join(root, "bundle/current")); err != nil {
			t.Fatal(err)
		}
		host := teardown.Host{Root: root, ScratchDir: "/scratch", CgroupRoot: "/nodeless"}
		s := New(host, filepath.Join(root, "bundle"), slog.New(slog.DiscardHandler))
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if err := s.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if there(before) {
			t.Error("what an earlier run left is there when Pods may start")
		}
		time.Sleep(interval / 2)
		write(orphan)
		time.Sleep(interval) // one look
		if !there(orphan) {
			t.Error("removed at the first look")
		}
		time.Sleep(interval) // the second
		synctest.Wait()
		if there(orphan) {
			t.Error("still there after the second look")
		}
		if there("bundle/00000000000000bb") || !there("bundle/00000000000000aa/bin/nodeless") {
			t.Error("the bundle that nothing runs from is there still, or the current one is not")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
