package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestDataDir(t *testing.T) {
	const text = "# settings\nlog-level: debug\ndata-dir: \"/from/file\" # on the big disk\n"
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		args  []string
		env   map[string]string
		files map[string]string
		user  bool
		want  string
	}{
		{name: "root's default", args: []string{"nodeless", "server"}, want: "/var/lib/nodeless"},
		{name: "user's default", args: []string{"nodeless", "kubectl"}, user: true, env: map[string]string{"HOME": "/home/u"}, want: "/home/u/.nodeless"},
		{name: "flag", args: []string{"nodeless", "server", "--data-dir", "/a"}, want: "/a"},
		{name: "flag with equals sign", args: []string{"nodeless", "server", "--data-dir=/a"}, want: "/a"},
		{name: "short flag", args: []string{"nodeless", "-d", "/a", "server"}, want: "/a"},
		{name: "the last flag counts", args: []string{"nodeless", "-d", "/a", "--data-dir=/b"}, want: "/b"},
		{name: "relative", args: []string{"nodeless", "-d", "x"}, want: filepath.Join(cwd, "x")},
		{name: "flag before environment", args: []string{"nodeless", "-d", "/a"}, env: map[string]string{"NODELESS_DATA_DIR": "/b"}, want: "/a"},
		{name: "environment before file", args: []string{"nodeless"}, env: map[string]string{"NODELESS_DATA_DIR": "/b"}, files: map[string]string{"/etc/nodeless/config.yaml": text}, want: "/b"},
		{name: "file", args: []string{"nodeless"}, files: map[string]string{"/etc/nodeless/config.yaml": text}, want: "/from/file"},
		{name: "another file by flag", args: []string{"nodeless", "server", "--config", "/c"}, files: map[string]string{"/c": "data-dir: /d\n"}, want: "/d"},
		{name: "another file by environment", args: []string{"nodeless"}, env: map[string]string{"NODELESS_CONFIG": "/c"}, files: map[string]string{"/c": "data-dir: /d\n"}, want: "/d"},
		{name: "kubectl's own flags are not ours", args: []string{"nodeless", "kubectl", "run", "-d", "/a"}, want: "/var/lib/nodeless"},
		{name: "flag before kubectl is ours", args: []string{"nodeless", "--data-dir", "/a", "kubectl", "run", "-d", "/b"}, want: "/a"},
		{name: "called as kubectl", args: []string{"/usr/local/bin/kubectl", "-d", "/a"}, want: "/var/lib/nodeless"},
		{name: "a nested key is not the setting", args: []string{"nodeless"}, files: map[string]string{"/etc/nodeless/config.yaml": "x:\n  data-dir: /no\n"}, want: "/var/lib/nodeless"},
		{name: "flag without value", args: []string{"nodeless", "server", "--data-dir"}, want: "/var/lib/nodeless"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			read := func(path string) ([]byte, error) {
				if text, ok := tt.files[path]; ok {
					return []byte(text), nil
				}
				return nil, &fs.PathError{Op: "open", Path: path, Err: errors.ErrUnsupported}
			}
			got, err := dataDir(tt.args, func(k string) string { return tt.env[k] }, read, !tt.user)
			if err != nil || got != tt.want {
				t.Errorf("dataDir(%q) = %q, %v; want %q", tt.args, got, err, tt.want)
			}
		})
	}
	settings := filepath.Join(t.TempDir(), "config.yaml")
	if err := errors.Join(os.WriteFile(settings, []byte("data-dir: /a\n"), 0o600), os.Mkdir(settings+".d", 0o700),
		os.WriteFile(settings+".d/10-disk.yaml", []byte("data-dir: /b\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := dataDir([]string{"nodeless", "server", "--config=" + settings}, func(string) string { return "" }, os.ReadFile, true); err != nil || got != "/b" {
		t.Errorf("with a second settings file: %q, %v; want /b", got, err)
	}
	if _, err := dataDir([]string{"nodeless"}, func(string) string { return "" }, os.ReadFile, false); err == nil {
		t.Error("a user without HOME got a folder")
	}
}
