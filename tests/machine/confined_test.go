package machine_test

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// confined: on a host of systemd's and cgroup v2's, what speaks to the guest is nobody there, as tests/vm's TestProcessesOfPodsAreConfined
// holds in full of its own.
func confined(s *testcluster.Space, _ *corev1.Pod) {
	t := s.T
	users := map[string]int{}
	for name, capabilities := range map[string]string{
		"qemu-system":   "0000000000000000",
		"bin/virtiofsd": "00000000000000db", // of a user namespace of its own
	} {
		found := processes(t, name)
		if len(found) == 0 {
			t.Errorf("there is no %s", name)
		}
		for pid := range found {
			raw, err := host.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got := statusOf(raw)
			if user := got["Uid"]; user == "" || strings.HasPrefix(user, "0 ") || users[user] != 0 {
				t.Errorf("%s is user %q, which is root or that of process %d", name, user, users[user])
			}
			users[got["Uid"]] = pid
			for field, want := range map[string]string{"CapEff": capabilities, "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
				if got[field] != want {
					t.Errorf("%s: %s is %q, want %q", name, field, got[field], want)
				}
			}
			kinds := "mnt pid ipc uts net cgroup"
			if name == "bin/virtiofsd" {
				kinds += " user"
			}
			const shared = "for n in %s; do [ $(readlink /proc/%d/ns/$n) != $(readlink /proc/1/ns/$n) ] || echo $n; done"
			if same := onHost(t, fmt.Sprintf(shared, kinds, pid)); same != "" {
				t.Errorf("%s is in the host's namespaces %q", name, same)
			}
		}
	}
}

// statusOf is /proc/PID/status by its fields.
func statusOf(raw []byte) map[string]string {
	fields := map[string]string{}
	for l := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(l, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}
