package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tool runs the command and gives what it printed.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	if err := run(args, &out); err != nil {
		t.Fatalf("sign %q: %v", args, err)
	}
	return strings.TrimSpace(out.String())
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSignatureHoldsForOneKeyAndOneText(t *testing.T) {
	dir := t.TempDir()
	key, sums := filepath.Join(dir, "key"), write(t, filepath.Join(dir, "SHA256SUMS"), "sum  file\n", 0o644)
	half := tool(t, "new", key)
	if again := tool(t, "public", key); again != half || len(half) != 44 {
		t.Errorf("public half = %q, then %q", half, again)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v; want mode 0600", info, err)
	}
	tool(t, "sign", key, sums)
	tool(t, "verify", half, sums)
	first, err := os.ReadFile(sums + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "sign", key, sums)
	if second, err := os.ReadFile(sums + ".sig"); err != nil || string(second) != string(first) {
		t.Errorf("signed twice: %q and %q, %v", first, second, err)
	}
	other := tool(t, "new", filepath.Join(dir, "other"))
	if err := run([]string{"verify", other, sums}, nil); !errors.Is(err, errForged) {
		t.Errorf("verify with another key = %v", err)
	}
	write(t, sums, "sum  other\n", 0o644)
	if err := run([]string{"verify", half, sums}, nil); !errors.Is(err, errForged) {
		t.Errorf("verify a changed file = %v", err)
	}
	write(t, sums+".sig", "", 0o644)
	if err := run([]string{"verify", half, sums}, nil); !errors.Is(err, errForged) {
		t.Errorf("verify an empty signature = %v", err)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	tool(t, "new", key)
	if err := run([]string{"new", key}, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was written over: %v", err)
	}
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	for what, args := range map[string][]string{
		"readable by others": {"public", key},
		"no key":             {"public", write(t, filepath.Join(dir, "text"), "hello", 0o600)},
		"no such file":       {"public", filepath.Join(dir, "none")},
		"short public key":   {"verify", "AAAA", write(t, filepath.Join(dir, "f"), "x", 0o600)},
		"no command":         {"explain", key},
		"too few arguments":  {"sign", key},
	} {
		if err := run(args, nil); err == nil {
			t.Errorf("%s: sign %q went through", what, args)
		}
	}
}

// TestKeyOfOpenSSL: an operator may make the key with OpenSSL.
func TestKeyOfOpenSSL(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-out", key).CombinedOutput(); err != nil {
		t.Skipf("skipped: openssl makes no ed25519 key: %v %s", err, out)
	}
	if half := tool(t, "public", key); len(half) != 44 {
		t.Errorf("public half = %q", half)
	}
}
