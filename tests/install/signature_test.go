package install

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/tests/attack"
)

// maker is one who makes releases, with a key of his own.
type maker struct {
	key    ed25519.PrivateKey
	public string
}

func newMaker(t *testing.T) maker {
	t.Helper()
	half, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return maker{key, base64.StdEncoding.EncodeToString(half)}
}

// asset is the program's name in a release.
const asset = "nodeless-linux-amd64"

// release lays the files of a signed release out in the folder download, and gives the program's path.
func (k maker) release(m *machine, version, text string) string {
	m.t.Helper()
	path := m.write("download/"+asset, text, 0o755)
	m.write("download/"+asset+".sha256", sum(text)+"  "+asset+"\n", 0o644)
	k.sign(m, fmt.Sprintf("# nodeless %s abc\n%s  install.sh\n%s  %s\n", version, sum("script"), sum(text), asset))
	return path
}

func (k maker) sign(m *machine, sums string) {
	m.t.Helper()
	m.write("download/SHA256SUMS", sums, 0o644)
	m.write("download/SHA256SUMS.sig", base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(sums)))+"\n", 0o644)
}

func needOpenSSL(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("skipped: no openssl here, and install.sh verifies with it; scripts/deps.sh test installs it")
	}
}

// pinned is install.sh as a release has it, with the key in it, in the folder download.
func (k maker) pinned(m *machine) string {
	m.t.Helper()
	text := m.read("../../install.sh")
	if !strings.Contains(text, "\nPINNED_KEY= ") {
		m.t.Fatal("install.sh has no place for the key")
	}
	return m.write("download/install.sh", strings.Replace(text, "\nPINNED_KEY= ", "\nPINNED_KEY="+k.public+" ", 1), 0o755)
}

// runScript runs another copy of install.sh; its output and whether it failed.
func (m *machine) runScript(script string, env ...string) (string, bool) {
	m.t.Helper()
	cmd := exec.Command("sh", script)
	cmd.Env = append([]string{"PATH=" + strings.Join(m.path, ":"), "SYSTEMCTL_LOG=" + m.write("systemctl.log", "", 0o644), "NODELESS_BIN_DIR=" + m.bin,
		"NODELESS_SYSTEMD_DIR=" + m.units, "NODELESS_CONFIG_DIR=" + filepath.Join(m.dir, "etc")}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err != nil
}

func TestSignedReleaseIsInstalled(t *testing.T) {
	needOpenSSL(t)
	k := newMaker(t)
	tests := []struct {
		name string
		run  func(m *machine, file string) (string, bool)
	}{
		{name: "key given, local file", run: func(m *machine, file string) (string, bool) {
			r := m.run(map[string]string{"NODELESS_INSTALL_FILE": file, "NODELESS_PUBLIC_KEY": k.public})
			return r.output, r.failed
		}},
		{name: "key given, from a URL, named by version", run: func(m *machine, file string) (string, bool) {
			s := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(file))))
			m.t.Cleanup(s.Close)
			r := m.run(map[string]string{"NODELESS_URL": s.URL + "/" + asset, "NODELESS_PUBLIC_KEY": k.public, "NODELESS_VERSION": "v1.2.3"})
			return r.output, r.failed
		}},
		{name: "key pinned in the script, beside the files", run: func(m *machine, _ string) (string, bool) {
			return m.runScript(k.pinned(m))
		}},
		{name: "key given, and the checksum by another way", run: func(m *machine, file string) (string, bool) {
			r := m.run(map[string]string{"NODELESS_INSTALL_FILE": file, "NODELESS_PUBLIC_KEY": k.public, "NODELESS_SHA256": sum(program)})
			return r.output, r.failed
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			out, failed := tt.run(m, k.release(m, "v1.2.3", program))
			if failed || !strings.Contains(out, "verified: v1.2.3 is signed with the key "+k.public) {
				t.Fatalf("output:\n%s", out)
			}
			if got := m.read(filepath.Join(m.bin, "nodeless")); got != program {
				t.Errorf("program = %q", got)
			}
			if env := m.read(filepath.Join(m.units, "nodeless.service.env")); env != "" {
				t.Errorf("the key went into the server's settings: %q", env)
			}
			m.noTemporaryFiles()
		})
	}
}

// TestWithoutAKeyItSaysSo: what is only compared with a checksum from the same place must not look verified.
func TestWithoutAKeyItSaysSo(t *testing.T) {
	m := newMachine(t)
	r := m.run(map[string]string{"NODELESS_INSTALL_FILE": m.release(program)})
	if r.failed || !strings.Contains(r.output, "not verified: ") {
		t.Errorf("output:\n%s", r.output)
	}
	k := newMaker(t)
	file := k.release(m, "v1", program)
	if out, failed := m.runScript(k.pinned(m), "NODELESS_PUBLIC_KEY=none", "NODELESS_INSTALL_FILE="+file); failed || !strings.Contains(out, "not verified: ") {
		t.Errorf("with NODELESS_PUBLIC_KEY=none:\n%s", out)
	}
}

// TestUnitHardening: T19, a dump of the server's memory holds keys.
func TestUnitHardening(t *testing.T) {
	m := newMachine(t)
	if r := m.run(map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}); r.failed {
		t.Fatal(r.output)
	}
	unit := m.read(filepath.Join(m.units, "nodeless.service"))
	for _, want := range []string{"\nLimitCORE=0\n", "\nNoNewPrivileges=yes\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit has no %q:\n%s", want, unit)
		}
	}
}

func TestAttackRelease(t *testing.T) {
	needOpenSSL(t)
	const evil = "#!/bin/sh\necho evil\n"
	k, other := newMaker(t), newMaker(t)
	for _, a := range []struct {
		what string
		do   func(m *machine) (env []string) // changes the release of k; what the operator gives beside it
		want string
	}{
		{what: "changed program", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			return nil
		}, want: "wrong checksum"},
		{what: "changed program and checksum file", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			m.write("download/"+asset+".sha256", sum(evil)+"  "+asset+"\n", 0o644)
			return nil
		}, want: "wrong checksum"},
		{what: "changed program and signed checksums", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			m.write("download/SHA256SUMS", "# nodeless v1 abc\n"+sum(evil)+"  "+asset+"\n", 0o644)
			return nil
		}, want: "wrong signature"},
		{what: "line added to the signed checksums", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			m.write("download/SHA256SUMS", m.read(filepath.Join(m.dir, "download/SHA256SUMS"))+sum(evil)+"  "+asset+"\n", 0o644)
			return nil
		}, want: "wrong signature"},
		{what: "signed with another key", do: func(m *machine) []string {
			other.release(m, "v1", evil)
			return nil
		}, want: "wrong signature"},
		{what: "signature stripped", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			m.write("download/"+asset+".sha256", sum(evil)+"  "+asset+"\n", 0o644)
			m.remove("download/SHA256SUMS.sig")
			return nil
		}, want: "no SHA256SUMS.sig"},
		{what: "empty signature", do: func(m *machine) []string {
			other.release(m, "v1", evil)
			m.write("download/SHA256SUMS.sig", "", 0o644)
			return nil
		}, want: "wrong signature"},
		{what: "checksums stripped", do: func(m *machine) []string {
			m.write("download/"+asset, evil, 0o755)
			m.write("download/"+asset+".sha256", sum(evil)+"  "+asset+"\n", 0o644)
			m.remove("download/SHA256SUMS")
			return nil
		}, want: "no SHA256SUMS beside"},
		{what: "another signed file in the program's place", do: func(m *machine) []string {
			m.write("download/"+asset, "script", 0o755) // signed, as install.sh
			return nil
		}, want: "wrong checksum"},
		{what: "older signed release", do: func(m *machine) []string {
			k.release(m, "v0.9", "with the hole of v0.9")
			return []string{"NODELESS_VERSION=v1"}
		}, want: `the signed release is "v0.9", not v1`},
		{what: "tool that verifies nothing", do: func(m *machine) []string {
			other.release(m, "v1", evil)
			m.write("double/openssl", "#!/bin/sh\nexit 1\n", 0o755)
			return nil
		}, want: "nothing here can verify"},
	} {
		attack.Try(t, "T19", a.what, func(t *testing.T) attack.Outcome {
			m := newMachine(t)
			k.release(m, "v1", program)
			env := append(a.do(m), "NODELESS_INSTALL_FILE="+filepath.Join(m.dir, "download", asset))
			out, failed := m.runScript(k.pinned(m), env...)
			if !failed {
				return attack.Succeeded
			}
			if !strings.Contains(out, a.want) || !strings.Contains(out, "hint: ") {
				t.Errorf("it does not say %q and what to do:\n%s", a.want, out)
			}
			m.nothing()
			return attack.Refused
		})
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}

// TestBadKeysAreRefused: a key with a slip in it must not fall back to no key.
func TestBadKeysAreRefused(t *testing.T) {
	k := newMaker(t)
	for _, key := range []string{"x", k.public[:43], k.public + "A", `$(id)` + k.public[5:], " " + k.public[1:]} {
		m := newMachine(t)
		r := m.run(map[string]string{"NODELESS_INSTALL_FILE": k.release(m, "v1", program), "NODELESS_PUBLIC_KEY": key})
		if !r.failed || !strings.Contains(r.output, "is no public key") {
			t.Errorf("key %q:\n%s", key, r.output)
		}
		m.nothing()
	}
}
