package backup_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nodeless/nodeless/pkg/cli/backup"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/tests/attack"
)

const passphrase = "correct horse battery"

// TestAttackArchive: somebody gets at the place where backups lie.
func TestAttackArchive(t *testing.T) {
	src := cluster(t, 10)
	src.Passphrase = passphrase
	sealed := archive(t, src)
	whole, err := os.ReadFile(sealed)
	if err != nil {
		t.Fatal(err)
	}
	attack.Try(t, "T20", "read the keys in a backup", func(t *testing.T) attack.Outcome {
		for _, secret := range []string{"content of client-ca.key", "manifest.json", "the key"} {
			if bytes.Contains(whole, []byte(secret)) || bytes.Contains(unpacked(t, whole), []byte(secret)) {
				return attack.Succeeded
			}
		}
		return attack.Contained
	})
	to := target(t)
	to.Passphrase, to.Unencrypted, to.WithConfig = passphrase, false, false
	for name, changed := range map[string][]byte{
		"change one bit of a backup": flip(whole, len(whole)/2), "change the last bit of a backup": flip(whole, len(whole)-1), "cut a backup short": whole[:len(whole)-20],
		"change the header of a backup": flip(whole, 40), "put something behind a backup": append(slices.Clone(whole), 'x'),
	} {
		attack.Try(t, "T20", name, func(t *testing.T) attack.Outcome { return refused(t, to, changed) })
	}
	attack.Try(t, "T20", "put an unencrypted archive in the place of a backup", func(t *testing.T) attack.Outcome {
		other := cluster(t, 5)
		data, err := os.ReadFile(archive(t, other))
		if err != nil {
			t.Fatal(err)
		}
		return refused(t, to, data)
	})
	attack.Try(t, "T20", "encrypt an archive with a passphrase of one's own", func(t *testing.T) attack.Outcome {
		other := cluster(t, 5)
		other.Passphrase = "a passphrase of mine"
		data, err := os.ReadFile(archive(t, other))
		if err != nil {
			t.Fatal(err)
		}
		return refused(t, to, data)
	})
	attack.Try(t, "T20", "have the configuration of an archive take effect", func(t *testing.T) attack.Outcome {
		r, err := backup.Restore(t.Context(), to, sealed)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"config.yaml.from-backup": "max-pods: 20\n", "config.yaml.d/10-san.yaml.from-backup": "tls-san: [a.example]\n"}
		if diff := cmp.Diff(want, files(t, filepath.Dir(to.ConfigFile))); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
		if len(r.Kept) != 2 {
			t.Errorf("told of %q", r.Kept)
		}
		return attack.Contained
	})
}

// refused wants an archive refused, with nothing left behind.
func refused(t *testing.T, to backup.Target, data []byte) attack.Outcome {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a")
	write(t, file, string(data))
	before := files(t, string(to.Data))
	_, err := backup.Restore(t.Context(), to, file)
	if err == nil {
		return attack.Succeeded
	}
	if len(hint.Of(err)) == 0 {
		t.Errorf("Restore: %v, want a hint", err)
	}
	if diff := cmp.Diff(before, files(t, string(to.Data))); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	return attack.Refused
}

func flip(data []byte, at int) []byte {
	out := slices.Clone(data)
	out[at] ^= 1
	return out
}

// unpacked is what zstd makes of data, if it is anything to it.
func unpacked(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, _ := z.DecodeAll(data, nil) // an error: it is encrypted
	return out
}

// TestAttackHugeArchive: an archive that the operator was given fills the disk before anybody sees what it is.
func TestAttackHugeArchive(t *testing.T) {
	sum := strings.Repeat("0", 64)
	many := make([]backup.Member, 0, 2000)
	for i := range cap(many) {
		many = append(many, backup.Member{Name: fmt.Sprintf("data/server/cred/%d.yaml", i), SHA256: sum})
	}
	db := backup.Member{Name: "data/server/db/state.db", Size: 1 << 30, SHA256: sum}
	for _, tt := range []struct {
		name    string
		members []backup.Member
		content int64 // bytes of the first member in the tar
		want    error
	}{
		{name: "more than there is room for", members: []backup.Member{db, {Name: "data/server/db/other.db", Size: 1 << 30, SHA256: sum}}, want: backup.ErrNoRoom},
		{name: "a large key", members: []backup.Member{{Name: "data/server/tls/client-ca.key", Size: 1 << 30, SHA256: sum}}, want: backup.ErrCorrupt},
		{name: "more than the manifest says", members: []backup.Member{{Name: "data/server/db/state.db", Size: 10, SHA256: sum}}, content: 1 << 28, want: backup.ErrCorrupt},
		{name: "many files", members: many, want: backup.ErrCorrupt},
		{name: "a file twice", members: []backup.Member{db, db}, want: backup.ErrCorrupt},
		{name: "a negative size", members: []backup.Member{{Name: "data/server/db/state.db", Size: -1 << 40, SHA256: sum}, db}, want: backup.ErrCorrupt},
		{name: "a file elsewhere", members: []backup.Member{{Name: "data/server/../../../etc/passwd", SHA256: sum}}, want: backup.ErrCorrupt},
	} {
		attack.Try(t, "T20", tt.name, func(t *testing.T) attack.Outcome {
			to := target(t)
			to.Room = func(string) (int64, error) { return 3 << 29, nil }
			file := filepath.Join(t.TempDir(), "a")
			write(t, file, string(huge(t, tt.members, tt.content)))
			written := int64(0)
			_, err := backup.Restore(t.Context(), to, file)
			for _, content := range files(t, string(to.Data)) {
				written += int64(len(content))
			}
			if err == nil || written > 0 {
				return attack.Succeeded
			}
			if !errors.Is(err, tt.want) || len(hint.Of(err)) == 0 {
				t.Errorf("Restore: %v, want %v with a hint", err, tt.want)
			}
			return attack.Refused
		})
	}
}

// huge is an archive with a manifest and one member of zeros.
func huge(t *testing.T, members []backup.Member, content int64) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	manifest, err := json.Marshal(backup.Manifest{Format: 1, Version: "v1.2.0", Members: members})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		text []byte
	}{{"manifest.json", manifest}, {members[0].Name, make([]byte, content)}} {
		if err := w.WriteHeader(&tar.Header{Name: part.name, Size: int64(len(part.text)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(part.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReadPassphrase(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string // of the error
	}{
		{name: "a line", text: passphrase + "\nmore\n", mode: 0o600},
		{name: "no end of line", text: passphrase, mode: 0o400},
		{name: "short", text: "secret\n", mode: 0o600, want: "it has 6 characters"},
		{name: "empty", mode: 0o600, want: "it has 0 characters"},
		{name: "open to others", text: passphrase, mode: 0o644, want: "others can read or write it"},
		{name: "endless", text: strings.Repeat("x", 1<<20), mode: 0o600, want: "it has 1026 characters"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "passphrase")
			if err := os.WriteFile(file, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			got, err := backup.ReadPassphrase(file, nil)
			if tt.want == "" && (err != nil || got != passphrase) {
				t.Errorf("ReadPassphrase = %q, %v", got, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || len(hint.Of(err)) == 0) {
				t.Errorf("ReadPassphrase = %v, want %q with a hint", err, tt.want)
			}
		})
	}
	if got, err := backup.ReadPassphrase("-", strings.NewReader(passphrase+"\r\n")); err != nil || got != passphrase {
		t.Errorf("from standard input: %q, %v", got, err)
	}
}
