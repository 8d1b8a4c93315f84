package uninstall_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/cli/uninstall"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackInstallRecord: somebody gets a line into the record of what was installed, and waits for the operator to uninstall.
func TestAttackInstallRecord(t *testing.T) {
	for _, tt := range []struct {
		name string
		line string // ROOT is the folder with the installation
		lead func(root string) error
	}{
		{name: "have a folder removed", line: "ROOT/precious"},
		{name: "have another file removed", line: "ROOT/precious/data"},
		{name: "have a folder with a name of ours removed", line: "ROOT/other/nodeless"},
		{name: "have a folder removed by dots", line: "ROOT/bin/../precious/x/.."},
		{name: "have a folder removed by a link with a name of ours", line: "ROOT/link/nodeless", lead: func(root string) error {
			return os.MkdirAll(filepath.Join(root, "link"), 0o755)
		}},
		{name: "have the root removed", line: "/"},
	} {
		attack.Try(t, "T18", tt.name, func(t *testing.T) attack.Outcome {
			root, cfg := install(t)
			for _, dir := range []string{"precious/x", "other/nodeless", "link"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			precious := []string{filepath.Join(root, "precious/data"), filepath.Join(root, "other/nodeless/data")}
			for _, file := range precious {
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(filepath.Join(root, "precious"), filepath.Join(root, "link/nodeless")); err != nil {
				t.Fatal(err)
			}
			add(t, cfg.Record, strings.ReplaceAll(tt.line, "ROOT", root))
			items, err := uninstall.Plan(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range items {
				if item.Path == "/" || item.Path == filepath.Join(root, "precious") {
					t.Fatalf("it would remove %s", item.Path)
				}
			}
			if err := uninstall.Remove(items, noMounts); err != nil {
				t.Fatal(err)
			}
			for _, file := range precious {
				if _, err := os.Stat(file); err != nil {
					return attack.Succeeded
				}
			}
			return attack.Contained
		})
	}
	attack.Try(t, "T18", "write the record as another user", func(t *testing.T) attack.Outcome {
		_, cfg := install(t)
		if err := os.Chmod(cfg.Record, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := uninstall.Plan(cfg); len(hint.Of(err)) == 0 {
			t.Errorf("Plan = %v, want an error with a hint", err)
		}
		return attack.Refused
	})
}

// add appends a line to a file.
func add(t *testing.T, file, line string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
