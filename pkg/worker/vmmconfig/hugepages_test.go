package vmmconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/hint"
)

func TestAdviseHugePages(t *testing.T) {
	for _, tt := range []struct {
		name, enabled, shmem         string
		wantEnabled, wantShmem, hint string
	}{
		{name: "as Debian boots", enabled: "always [madvise] never\n", shmem: "always within_size advise [never] deny force\n", wantEnabled: "always [madvise] never\n", wantShmem: "advise"},
		{name: "never", enabled: "always madvise [never]\n", shmem: "always within_size advise never [deny] force\n", wantEnabled: "madvise", wantShmem: "advise"},
		{name: "more than advised", enabled: "[always] madvise never\n", shmem: "[always] within_size advise never deny force\n",
			wantEnabled: "[always] madvise never\n", wantShmem: "[always] within_size advise never deny force\n"},
		{name: "a kernel without", enabled: "always [madvise] never\n", wantEnabled: "always [madvise] never\n", hint: "huge-pages: keep"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"enabled": tt.enabled, "shmem_enabled": tt.shmem} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := adviseHugePages(dir)
			if (err != nil) != (tt.hint != "") || !strings.Contains(strings.Join(hint.Of(err), " "), tt.hint) {
				t.Errorf("adviseHugePages = %v", err)
			}
			for name, want := range map[string]string{"enabled": tt.wantEnabled, "shmem_enabled": tt.wantShmem} {
				if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}
