// Package boottest proves that QEMU, the guest kernel and its modules, as they are in the bundle tree, boot with no
// help from the machine they are on.
package boottest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/bundle"
)

// The test binary is also the /init of the microVM that the test boots.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 && os.Getenv("NODELESS_TEST_GUEST") != "" {
		guest()
	}
	os.Exit(m.Run())
}

// guest loads the modules in their order, says so on the console, and powers off.
func guest() {
	order, err := os.ReadFile("/modules/order")
	loaded := 0
	for _, name := range strings.Fields(string(order)) {
		image, readErr := os.ReadFile("/modules/" + name)
		if readErr == nil {
			readErr = unix.InitModule(image, "")
		}
		if readErr != nil {
			fmt.Printf("guest: module %s: %v\n", name, readErr)
			continue
		}
		loaded++
	}
	var u unix.Utsname
	_ = unix.Uname(&u)
	fmt.Printf("guest: kernel=%s loaded=%d err=%v scratch=%v\n", unix.ByteSliceToString(u.Release[:]), loaded, err, useScratch())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// useScratch writes to the scratch disk and reads it back.
func useScratch() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if err := unix.Mount("/dev/vda", "/run", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount scratch disk: %w", err)
	}
	if err := os.WriteFile("/run/file", []byte("written"), 0o600); err != nil {
		return err
	}
	if err := unix.Unmount("/run", 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	if err := unix.Mount("/dev/vda", "/run", "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount again: %w", err)
	}
	if got, err := os.ReadFile("/run/file"); err != nil || string(got) != "written" {
		return fmt.Errorf("read back %q: %w", got, err)
	}
	return nil
}

func TestBundleBootsByItself(t *testing.T) {
	tree, err := filepath.Abs("../../dist/bundle")
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(tree, "../tools")
	for _, need := range []string{filepath.Join(tree, "guest/vmlinux"), filepath.Join(tree, "guest/scratch.ext4"), filepath.Join(tools, "mkinitrd")} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("skipped: %v; run scripts/build-bundle.sh first", err)
		}
	}
	modules, err := filepath.Glob(filepath.Join(tree, "../kernel/usr/lib/modules/*"))
	if err != nil || len(modules) != 1 {
		t.Fatalf("kernel modules: %v, %v; want one folder", modules, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	mk := exec.Command(filepath.Join(tools, "mkinitrd"), "-versions", "../versions.yaml", "-modules", modules[0], "-init", self, "-out", initrd)
	if out, err := mk.CombinedOutput(); err != nil {
		t.Fatalf("mkinitrd: %v\n%s", err, out)
	}

	// Only a manifest is needed to name the paths; the parts that are not from outside need not be built.
	dir := t.TempDir()
	for _, part := range []string{"qemu", "guest"} {
		if err := os.Symlink(filepath.Join(tree, part), filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := bundle.Manifest{Version: "test"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ManifestName), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	argv, env := b.QEMU()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:],
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256",
		"-kernel", b.Kernel(), "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 quiet NODELESS_TEST_GUEST=1",
		"-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
		"-drive", "if=none,id=scratch,format=raw,snapshot=on,file="+b.Scratch(), "-device", "virtio-blk-pci,drive=scratch")...)
	cmd.Env = env // no PATH, no LD_LIBRARY_PATH
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "guest: module") || !strings.Contains(string(out), "guest: kernel=6.12.") || !strings.Contains(string(out), "err=<nil> scratch=<nil>") {
		t.Errorf("console:\n%s\nwant every module loaded, a 6.12 kernel and a usable scratch disk", out)
	}
}
