// Package release proves, without a whole build, that the tools which make a release give the same bytes for the same sources, and puts a
// small release together the way scripts/release.sh does. Two whole builds are compared by `scripts/release.sh --verify-reproducible`.
package release

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/bundle"
)

// run runs a command from the root of the repository.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func write(t *testing.T, path string, text []byte, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestSameTreeSamePackage packs two trees that differ in what two builders differ in: folder, umask, times, holes on the disk.
func TestSameTreeSamePackage(t *testing.T) {
	var packages [][]byte
	for i, umask := range []os.FileMode{0o022, 0o077} {
		tree := filepath.Join(t.TempDir(), strings.Repeat("long", i+1))
		write(t, filepath.Join(tree, "bin/nodeless"), bytes.Repeat([]byte("program "), 1<<15), 0o755&^umask)
		write(t, filepath.Join(tree, "guest/initrd"), bytes.Repeat([]byte("initrd"), 1000), 0o644&^umask)
		disk, err := os.Create(filepath.Join(tree, "guest/disk"))
		if err != nil {
			t.Fatal(err)
		}
		if err := disk.Truncate(2 << 30); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // zeros that are written, where the other has a hole
			if _, err := disk.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := disk.WriteAt([]byte("superblock"), 1024); err != nil {
			t.Fatal(err)
		}
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(tree, "bin/nodeless"), time.Time{}, time.Unix(int64(i)*1_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		files, err := bundle.Scan(tree)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := bundle.Manifest{Version: "v1", Files: files}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(tree, bundle.ManifestName), raw, 0o644)
		var out bytes.Buffer
		if _, err := bundle.Pack(tree, &out, 0); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, out.Bytes())
	}
	if !bytes.Equal(packages[0], packages[1]) {
		t.Error("two builders of the same tree make different packages")
	}
}

// TestSameScratchDisk makes an empty disk twice, a second apart.
func TestSameScratchDisk(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("skipped: no mke2fs here; scripts/deps.sh installs it")
	}
	var disks []bundle.File
	for range 2 {
		dir := t.TempDir()
		run(t, nil, "scripts/scratch-disk.sh", filepath.Join(dir, "disk"), "20G")
		files, err := bundle.Scan(dir)
		if err != nil || len(files) != 1 {
			t.Fatalf("scan = %v, %v", files, err)
		}
		disks = append(disks, files[0])
		time.Sleep(1100 * time.Millisecond) // a time of day that got in would be another one
	}
	if disks[0].SHA256 != disks[1].SHA256 || disks[0].SHA256 == "" {
		t.Errorf("two disks: %s and %s", disks[0].SHA256, disks[1].SHA256)
	}
}

// TestSameImages builds the images that ship twice.
func TestSameImages(t *testing.T) {
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("skipped: no busybox here; scripts/deps.sh installs it")
	}
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		run(t, []string{"GOFLAGS=-trimpath -buildvcs=false"}, "go", "run", "./bundle/images", "-out", dir)
	}
	for _, name := range []string{"pause.tar", "hello.tar", "inference.tar"} {
		if one, two := read(t, filepath.Join(dirs[0], name)), read(t, filepath.Join(dirs[1], name)); len(one) == 0 || !bytes.Equal(one, two) {
			t.Errorf("%s differs from build to build", name)
		}
	}
}

// TestFilesOfARelease puts a release of a small "build" together twice, signs it and checks what is in it.
func TestFilesOfARelease(t *testing.T) {
	clone := smallClone(t)
	key := filepath.Join(t.TempDir(), "key")
	public := strings.TrimSpace(run(t, nil, "go", "run", "./bundle/sign", "new", key))
	outs := []string{filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")}
	for _, out := range outs {
		run(t, []string{"KEY=" + key, "PUBLIC_KEY="}, "scripts/release-files.sh", clone, out)
	}
	run(t, nil, "diff", "-r", outs[0], outs[1])
	run(t, nil, "go", "run", "./bundle/sign", "verify", public, filepath.Join(outs[0], "SHA256SUMS"))
	if script := read(t, filepath.Join(outs[0], "install.sh")); !bytes.Contains(script, []byte("\nPINNED_KEY="+public+" ")) {
		t.Error("the key is not pinned in install.sh")
	}
	sums := string(read(t, filepath.Join(outs[0], "SHA256SUMS")))
	if !strings.HasPrefix(sums, "# nodeless v1.2.3 ") {
		t.Errorf("the signed file does not say which release it is of:\n%s", sums)
	}
	for _, name := range []string{"install.sh", "nodeless-linux-amd64", "nodeless-linux-amd64.sha256", "nodeless-linux-amd64.cdx.json"} {
		if !strings.Contains(sums, "  "+name+"\n") {
			t.Errorf("the signed file does not cover %s:\n%s", name, sums)
		}
	}
	check := exec.Command("sha256sum", "-c", "--quiet", "SHA256SUMS")
	check.Dir = outs[0]
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	if os.Geteuid() == 0 {
		bin := t.TempDir()
		out := run(t, []string{"NODELESS_BIN_DIR=" + bin, "NODELESS_SYSTEMD_DIR=" + t.TempDir(), "NODELESS_CONFIG_DIR=" + t.TempDir(), "NODELESS_SKIP_ENABLE=true", "NODELESS_SKIP_START=true",
			"PATH=" + withoutSystemd(t)}, "sh", filepath.Join(outs[0], "install.sh"))
		if !strings.Contains(out, "verified: v1.2.3 is signed with the key "+public) {
			t.Errorf("install.sh of the release says:\n%s", out)
		}
	}

	// Without a key there is no signature, and nothing looks as if there were one.
	bare := filepath.Join(t.TempDir(), "bare")
	run(t, []string{"KEY=", "PUBLIC_KEY="}, "scripts/release-files.sh", clone, bare)
	if _, err := os.Stat(filepath.Join(bare, "SHA256SUMS.sig")); err == nil {
		t.Error("a release without a key has a signature")
	}
	// One without the private half makes the same files, the signature apart.
	again := filepath.Join(t.TempDir(), "again")
	run(t, []string{"KEY=", "PUBLIC_KEY=" + public}, "scripts/release-files.sh", clone, again)
	run(t, nil, "diff", "-r", "-x", "SHA256SUMS.sig", outs[0], again)
}

// smallClone is what a build leaves in a clone, as far as the release's files are made of it.
func smallClone(t *testing.T) string {
	t.Helper()
	clone := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := read(t, self)
	write(t, filepath.Join(clone, "dist/out/nodeless-guest"), program, 0o755)
	write(t, filepath.Join(clone, "dist/nodeless"), []byte("#!/bin/sh\n"), 0o755)
	write(t, filepath.Join(clone, "install.sh"), read(t, "../../install.sh"), 0o755)
	write(t, filepath.Join(clone, "bundle/versions.yaml"), read(t, "../../bundle/versions.yaml"), 0o644)
	tree := filepath.Join(clone, "dist/bundle")
	write(t, filepath.Join(tree, "bin/test"), program, 0o755)
	files, err := bundle.Scan(tree)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bundle.Manifest{Version: "v1.2.3", Files: files}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, bundle.ManifestName), raw, 0o644)
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "install.sh"}, {"commit", "-q", "-m", "x"}} {
		run(t, env, "git", append([]string{"-C", clone}, args...)...)
	}
	return clone
}

// withoutSystemd is a PATH on which systemctl does nothing: this test must not touch the services of the machine it runs on.
func withoutSystemd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nexit 0\n"), 0o755)
	return dir + ":" + os.Getenv("PATH")
}
