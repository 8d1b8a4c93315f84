package vm_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
)

// volumed has a volume, and with it a virtiofsd.
const volumed = `
apiVersion: v1
kind: Pod
metadata: {name: confined}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo here > /v/file; sleep 3600"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {}}]
`

// What nodeless-vmm and the shim keep of root's capabilities (docs/security.md).
const (
	vmmKeeps  = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_KILL | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYS_RESOURCE
	shimKeeps = vmmKeeps | 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID |
		1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_MKNOD
)

// TestProcessesOfPodsAreConfined reads of every process of a Pod on the host who it is and what it may and sees (docs/security.md, T5).
func TestProcessesOfPodsAreConfined(t *testing.T) {
	s := newSpace(t, 4*time.Minute)
	s.OwnHost(t, "it reads of the host's processes")
	s.Apply(volumed)
	s.Ready("confined")
	users := map[string]int{}
	for program, keeps := range map[string]uint64{contract.VMM: vmmKeeps, contract.Shim: shimKeeps} {
		pids := s.Processes(t, program)
		if len(pids) == 0 {
			t.Errorf("no process has %s in its command line", program)
		}
		for _, pid := range pids {
			got := rightsOf(pid, program)
			have, _ := strconv.ParseUint(rightsOf(s.Host.Pid(), "")["CapPrm"], 16, 64) // a host that is a container may lack some
			capabilities := fmt.Sprintf("%016x", keeps&have)
			for field, want := range map[string]string{"CapEff": capabilities, "CapPrm": capabilities, "CapBnd": capabilities,
				"CapInh": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1", "Seccomp": "2"} {
				if got != nil && got[field] != want {
					t.Errorf("%s: %s is %q, want %q", program, field, got[field], want)
				}
			}
		}
	}
	for program, capabilities := range map[string]string{
		"qemu-system": "0000000000000000",
		// chown, dac_override, fowner, fsetid, setgid, setuid: it acts for the guest's users
		"bin/virtiofsd": "00000000000000db",
	} {
		pids := s.Processes(t, program)
		if len(pids) == 0 {
			t.Errorf("no process has %s in its command line", program)
		}
		for _, pid := range pids {
			got := rightsOf(pid, "ld-linux")
			if got == nil {
				continue // another test's Pod has ended
			}
			user := got["Uid"]
			if strings.HasPrefix(user, "0 ") || user == "" || users[user] != 0 {
				t.Errorf("%s is user %q, which is root or that of process %d", program, user, users[user])
			}
			users[user] = pid
			for field, want := range map[string]string{"CapEff": capabilities, "CapPrm": capabilities, "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2", "Groups": ""} {
				if got[field] != want {
					t.Errorf("%s: %s is %q, want %q", program, field, got[field], want)
				}
			}
			kinds := []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"}
			if program == "bin/virtiofsd" {
				kinds = append(kinds, "user") // its capabilities are worth nothing on the host
			}
			for _, kind := range kinds {
				own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
				host, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.Host.Pid(), kind)) // the host is there
				if err == nil && own == host {
					t.Errorf("%s is in the host's %s namespace", program, kind)
				}
			}
		}
	}
}

// rightsOf is /proc/PID/status by its fields; nil once the process has ended or while it has not yet become the program it will be.
func rightsOf(pid int, program string) map[string]string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	raw, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || err2 != nil || !strings.Contains(strings.SplitN(string(line), "\x00", 2)[0], program) {
		return nil
	}
	fields := map[string]string{}
	for l := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(l, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}
