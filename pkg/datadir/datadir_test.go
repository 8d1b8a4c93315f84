package datadir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
)

func TestPrepareMakesClosedFolders(t *testing.T) {
	d := datadir.Dir(filepath.Join(t.TempDir(), "data"))
	if err := d.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{string(d), d.TLS(), d.Cred(), d.DB(), d.Scratch(), d.SandboxRecords()} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want a folder of mode 0700", dir, info, err)
		}
	}
	entries, _ := filepath.Glob(filepath.Join(string(d), ".write-test-*"))
	if len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestPrepareOnAFileSaysWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := datadir.Dir(file).Prepare(); len(hint.Of(err)) == 0 {
		t.Errorf("Prepare on a file: %v, want an error with a remedy", err)
	}
}
