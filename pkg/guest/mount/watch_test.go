package mount

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// publish writes a version of a volume as the kubelet does and removes the one before.
func publish(t *testing.T, dir, version string, files map[string]string) {
	t.Helper()
	before, _ := os.Readlink(filepath.Join(dir, dataLink))
	for name, text := range files {
		path := filepath.Join(dir, version, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(version, filepath.Join(dir, newLink)), os.Rename(filepath.Join(dir, newLink), filepath.Join(dir, dataLink))); err != nil {
		t.Fatal(err)
	}
	if before != "" {
		if err := os.RemoveAll(filepath.Join(dir, before)); err != nil {
			t.Fatal(err)
		}
	}
}

// content reads a copy as a program sees it: by the names at its top.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		if e.Name() == dataLink || e.IsDir() {
			continue
		}
		if raw, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			got[e.Name()] = string(raw)
			continue
		}
		below, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range below {
			raw, err := os.ReadFile(filepath.Join(dir, e.Name(), f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			got[e.Name()+"/"+f.Name()] = string(raw)
		}
	}
	return got
}

func TestCopyFollowsItsVolume(t *testing.T) {
	w := &watched{source: t.TempDir(), copy: t.TempDir()}
	if err := w.first(t.Context()); err != nil || len(content(t, w.copy)) != 0 {
		t.Fatalf("a volume without content: %v", err)
	}
	for _, v := range []struct {
		version string
		files   map[string]string
	}{
		{"..1", map[string]string{"colour": "blue", "motto": "plain", "deep/a": "1"}},
		{"..2", map[string]string{"colour": "green", "new": "x", "deep/b": "2"}},
		{"..3", map[string]string{"colour": "green"}},
	} {
		publish(t, w.source, v.version, v.files)
		if err := w.sync(); err != nil {
			t.Fatalf("version %s: %v", v.version, err)
		}
		if diff := cmp.Diff(v.files, content(t, w.copy)); diff != "" {
			t.Errorf("version %s (-want +got):\n%s", v.version, diff)
		}
		info, err := os.Stat(filepath.Join(w.copy, "colour"))
		if err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("version %s: colour has %v, %v, want permissions 640", v.version, info, err)
		}
	}
	for _, gone := range []string{"..1", "..2"} {
		if _, err := os.Stat(filepath.Join(w.copy, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("version %s is still there: %v", gone, err)
		}
	}
}

func TestCopyStaysWholeWhileItsVolumeIsBroken(t *testing.T) {
	w := &watched{source: t.TempDir(), copy: t.TempDir()}
	want := map[string]string{"a": "1", "b": "1"}
	publish(t, w.source, "..1", want)
	if err := w.first(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What the guest sees for a second: the link leads where nothing is any more.
	publish(t, w.source, "..2", map[string]string{"a": "2", "b": "2"})
	if err := os.RemoveAll(filepath.Join(w.source, "..2")); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(); err == nil {
		t.Error("a version that is not there was copied")
	}
	if diff := cmp.Diff(want, content(t, w.copy)); diff != "" {
		t.Errorf("the copy (-want +got):\n%s", diff)
	}
	if entries, _ := filepath.Glob(filepath.Join(w.copy, "..2*")); len(entries) != 0 {
		t.Errorf("remains of a copy that was given up: %v", entries)
	}
}

func TestContentOutsideOfTheVolumeIsNotCopied(t *testing.T) {
	w := &watched{source: t.TempDir(), copy: t.TempDir()}
	if err := os.Symlink("../../etc", filepath.Join(w.source, dataLink)); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(); err == nil {
		t.Error("the copy follows a link out of its volume")
	}
}
