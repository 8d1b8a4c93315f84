package guesttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
)

// TestHostComesBack drops the host and lets another one attach, as after a restore from a template. The
// guest must neither spin meanwhile nor lose what runs in it.
func TestHostComesBack(t *testing.T) {
	v := boot(t)
	slot := v.plug(t, image(t), true)
	testSandbox(t, v, slot)
	v.start(t, createRequest("survivor", slot, shell("sleep 1; echo still here; exit 6")))
	busy := func(what string) float64 {
		const span = 3 * time.Second
		before := v.cpuTime(t)
		timer := time.NewTimer(span)
		<-timer.C
		share := float64(v.cpuTime(t)-before) / float64(span)
		t.Logf("%s: %.1f%% of a core", what, 100*share)
		return share
	}
	busy("idle with a host")
	if err := v.session.Close(); err != nil {
		t.Fatal(err)
	}
	if share := busy("idle without a host"); share > 0.5 {
		t.Errorf("the guest spins without a host: %.0f%% of a core", 100*share)
	}
	v.attach(t)
	if out := v.output(t, "survivor", "", false); out != "still here\n" {
		t.Errorf("output = %q", out)
	}
	if got := v.wait(t, "survivor", ""); got != 6 {
		t.Errorf("status = %d, want 6", got)
	}
}

// TestSharedDirectory mounts a host directory by virtio-fs, as Kata does for volumes.
func TestSharedDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root")
	}
	dir := t.TempDir()
	share, socket := filepath.Join(dir, "share"), filepath.Join(dir, "fs.sock")
	if err := os.MkdirAll(filepath.Join(share, "vol"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(share, "vol/file"), "first\n")
	if os.Getenv("NODELESS_GUEST_VM") == "1" {
		startDaemon(t, packed(t, "virtiofsd", "--socket-path="+socket, "--shared-dir="+share, "--cache=auto", "--sandbox=chroot"))
		until(t, "virtiofsd listens", func() bool { _, err := os.Stat(socket); return err == nil })
	}
	v := boot(t, "-object", "memory-backend-memfd,id=mem,size=512M,share=on", "-machine", "memory-backend=mem",
		"-chardev", "socket,id=fs,path="+socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=kataShared,queue-size=1024")
	slot := v.plug(t, image(t), true)
	_, err := v.CreateSandbox(t.Context(), &pb.CreateSandboxRequest{Storages: []*pb.Storage{
		{Driver: "virtio-fs", Source: "kataShared", Fstype: "virtiofs", MountPoint: root + "/shared/containers/"},
		{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: root + "/sandbox/shm"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	req := createRequest("c", slot, shell("cat /vol/file; read line; echo back > /vol/answer"))
	req.OCI.Mounts = append(req.OCI.Mounts, &pb.Mount{
		Destination: "/vol", Type: "bind", Source: root + "/shared/containers/vol", Options: []string{"rbind", "rprivate", "rw"},
	})
	v.start(t, req)
	r, err := v.ReadStdout(t.Context(), &pb.ReadStreamRequest{ContainerId: "c", Len: 100})
	if err != nil || string(r.Data) != "first\n" {
		t.Fatalf("file = %q, %v", r.GetData(), err)
	}
	write(t, filepath.Join(share, "vol/new"), "second\n")
	if err := os.Rename(filepath.Join(share, "vol/new"), filepath.Join(share, "vol/file")); err != nil {
		t.Fatal(err)
	}
	until(t, "the update is seen", func() bool { // the guest may keep an entry for a second
		out, _ := v.exec(t, "c", fmt.Sprintf("look%d", time.Now().UnixNano()), process("cat", "/vol/file"))
		return out == "second\n"
	})
	if _, err := v.CloseStdin(t.Context(), &pb.CloseStdinRequest{ContainerId: "c"}); err != nil {
		t.Fatal(err)
	}
	if got := v.wait(t, "c", ""); got != 0 {
		t.Errorf("status = %d", got)
	}
	if raw, err := os.ReadFile(filepath.Join(share, "vol/answer")); string(raw) != "back\n" {
		t.Errorf("answer on the host = %q, %v", raw, err)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startDaemon runs a helper that dies with the test.
func startDaemon(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
