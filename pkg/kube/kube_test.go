package kube_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
)

func files(t *testing.T) kube.Access {
	t.Helper()
	dir := t.TempDir()
	a := kube.Access{Server: "https://127.0.0.1:6443", CAFile: filepath.Join(dir, "ca"), CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	for _, f := range []string{a.CAFile, a.CertFile, a.KeyFile} {
		if err := os.WriteFile(f, []byte("content of "+filepath.Base(f)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func TestKubeconfigsReferToFilesOrCarryThem(t *testing.T) {
	a := files(t)
	byPath, inline := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "new", "folder", "b")
	if err := kube.WriteKubeconfig(byPath, a); err != nil {
		t.Fatal(err)
	}
	if err := kube.WriteInlineKubeconfig(inline, a); err != nil {
		t.Fatal(err)
	}
	got, err := kube.FromKubeconfig(byPath)
	if err != nil {
		t.Fatal(err)
	}
	want := kube.Access{Server: got.Host, CAFile: got.CAFile, CertFile: got.CertFile, KeyFile: got.KeyFile}
	if diff := cmp.Diff(a, want); diff != "" {
		t.Errorf("by path (-want +got):\n%s", diff)
	}
	if got, err = kube.FromKubeconfig(inline); err != nil {
		t.Fatal(err)
	}
	if string(got.KeyData) != "content of key" || got.KeyFile != "" {
		t.Errorf("inline kubeconfig has key %q and file %q", got.KeyData, got.KeyFile)
	}
	for _, path := range []string{byPath, inline} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", path, info.Mode(), err)
		}
	}
}

func TestIdentityIsAKubeconfig(t *testing.T) {
	who := kube.Identity{Server: "https://192.0.2.7:6443", CA: []byte("ca"), Cert: []byte("cert"), Key: []byte("key"), User: "alice", Namespace: "shop"}
	data, err := who.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.NewClientConfigFromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	client, err := cfg.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	namespace, _, err := cfg.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := cfg.RawConfig()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{client.Host, string(client.CAData), string(client.CertData), string(client.KeyData), namespace, raw.CurrentContext}
	if diff := cmp.Diff([]string{"https://192.0.2.7:6443", "ca", "cert", "key", "shop", "alice@nodeless"}, got); diff != "" {
		t.Errorf("kubeconfig (-want +got):\n%s", diff)
	}
}

func TestUnwritableKubeconfigHasAHint(t *testing.T) {
	a := files(t)
	if err := kube.WriteInlineKubeconfig(filepath.Join(a.CAFile, "below-a-file"), a); len(hint.Of(err)) == 0 {
		t.Errorf("got %v, want an error with a hint", err)
	}
}

func TestManifests(t *testing.T) {
	tests := []struct {
		name    string
		files   fstest.MapFS
		values  map[string]string
		want    []string
		wantErr string
	}{
		{
			name: "several files and documents in order",
			files: fstest.MapFS{
				"m/b.yaml": {Data: []byte("kind: Service\nmetadata: {name: ${NAME}}\n")},
				"m/a.yaml": {Data: []byte("# comment only\n---\nkind: Namespace\nmetadata: {name: one}\n---\nkind: Namespace\nmetadata: {name: two}\n")},
				"m/readme": {Data: []byte("not a manifest")},
			},
			values: map[string]string{"NAME": "dns"},
			want:   []string{"Namespace/one", "Namespace/two", "Service/dns"},
		},
		{name: "missing value", files: fstest.MapFS{"m/a.yaml": {Data: []byte("kind: X\nmetadata: {name: ${NAME}}\n")}}, wantErr: "no value"},
		{name: "no name", files: fstest.MapFS{"m/a.yaml": {Data: []byte("kind: X\n")}}, wantErr: "without kind or name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, err := kube.Manifests(tt.files, "m", tt.values)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, o.GetKind()+"/"+o.GetName())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWaitRemembersWhatWentWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		last := errors.New("connection refused")
		if err := kube.Wait(ctx, "it", func(context.Context) (bool, error) { return false, last }); !errors.Is(err, last) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want both the deadline and the last error", err)
		}
		calls := 0
		err := kube.Wait(t.Context(), "it", func(context.Context) (bool, error) { calls++; return false, kube.Permanent(last) })
		if !errors.Is(err, last) || calls != 1 {
			t.Errorf("a permanent error: %v after %d calls, want it at once", err, calls)
		}
		if err := kube.Wait(t.Context(), "it", func(context.Context) (bool, error) { calls++; return calls > 3, nil }); err != nil {
			t.Error(err)
		}
	})
}
