package guesttest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
)

// testClock sets the guest's clock wrong and has the host put it right.
func testClock(t *testing.T, v *vm, slot string) {
	req := createRequest("setter", slot, shell("date -s @1000000000 >/dev/null; read line; date +%s"))
	c := req.OCI.Process.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = append([]string{"CAP_SYS_TIME"}, *set...)
	}
	v.start(t, req)
	until(t, "the clock is put right", func() bool {
		by, err := v.session.SyncClock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return by > time.Hour
	})
	if _, err := v.CloseStdin(t.Context(), &pb.CloseStdinRequest{ContainerId: "setter"}); err != nil {
		t.Fatal(err)
	}
	out := strings.TrimSpace(v.output(t, "setter", "", false))
	seconds, err := strconv.ParseInt(out, 10, 64)
	if off := time.Since(time.Unix(seconds, 0)); err != nil || off.Abs() > 3*time.Second {
		t.Errorf("the guest's time is %q, off by %s", out, off)
	}
	v.remove(t, "setter")
}

// testPrivileged: all devices of the guest, and the right to use them.
func testPrivileged(t *testing.T, v *vm, slot string) {
	req := createRequest("boss", slot, shell("head -c 1 /dev/vda | wc -c; mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted; ls /dev"))
	req.OCI.Linux.MaskedPaths, req.OCI.Linux.ReadonlyPaths = nil, nil
	c := req.OCI.Process.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = append([]string{"CAP_SYS_ADMIN", "CAP_SYS_RAWIO"}, *set...)
	}
	v.start(t, req)
	out, errOut := v.output(t, "boss", "", false), v.output(t, "boss", "", true)
	for _, word := range []string{"1\nmounted\n", "kmsg\n", "vda\n"} {
		if !strings.Contains(out, word) {
			t.Errorf("output %q, %q lacks %q", out, errOut, word)
		}
	}
	if strings.Contains(out, "vport") {
		t.Error("it can write to the agent's port")
	}
	v.remove(t, "boss")
	plain := createRequest("plain", slot, shell("ls /dev | grep -c ^vd"))
	v.start(t, plain)
	if out := v.output(t, "plain", "", false); out != "0\n" {
		t.Errorf("a plain container sees %q disks", strings.TrimSpace(out))
	}
	v.remove(t, "plain")
}

// testSignals: the codes that signals give, of processes that are not the first of their PID namespace.
func testSignals(t *testing.T, v *vm, slot string) {
	v.start(t, createRequest("target", slot, process("sleep", "1000")))
	for sig, want := range map[string]int32{"SEGV": 139, "USR1": 138, "ABRT": 134, "TERM": 143, "KILL": 137} {
		if out, code := v.exec(t, "target", "sig"+sig, shell(fmt.Sprintf("kill -%s $$", sig))); code != want {
			t.Errorf("a process that dies of %s has code %d, want %d: %s", sig, code, want, out)
		}
	}
	v.signal(t, "target", "", 9)
	v.wait(t, "target", "")
	v.remove(t, "target")
}
