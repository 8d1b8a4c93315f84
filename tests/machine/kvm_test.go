package machine_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// alone starts nodeless-vmm by itself and boots the bundled guest on KVM, as Kata asks for it. vm.boot answers when the guest's agent does.
const alone = `
bundle=$(readlink -f /var/lib/nodeless/bundle/current)
dir=$(mktemp -d)
cd "$dir"
mkdir scratch log
printf '{"bundle":"%s","accel":"kvm","scratchDir":"%s/scratch","logDir":"%s/log"}' "$bundle" "$dir" "$dir" >config.json
NODELESS_VMM_CONFIG=config.json "$bundle/bin/nodeless-vmm" --api-socket "$dir/api" 2>errors &
vmm=$!
ask() { curl -sS --fail-with-body --max-time 120 --unix-socket api -X "$1" "http://vmm/api/v1/$2" ${3:+-d "$3"} || { cat errors log/*; exit 1; }; }
for i in 1 2 3 4 5 6 7 8 9 10; do [ -S api ] || sleep 1; done
ask PUT vm.create '{"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":268435456},"vsock":{"socket":"'$dir'/agent"},
	"payload":{"kernel":"'$bundle'/guest/vmlinux","initramfs":"'$bundle'/guest/initrd","cmdline":"quiet"}}'
ask PUT vm.boot
ask GET vm.info
ps -ww -eo args= | grep '^[^ ]*qemu-system[^ ]* ' || ps -ww -eo args= | grep 'qemu-system' | grep -v grep
ask PUT vmm.shutdown
wait "$vmm" || { echo "nodeless-vmm ended with $?"; cat errors; exit 1; }
cd /
rm -r "$dir"
`

// TestVMMAloneBootsOnKVM: the microVM's own program, without Kata, containerd or Kubernetes around it.
func TestVMMAloneBootsOnKVM(t *testing.T) {
	said := onHost(t, alone)
	for _, want := range []string{`"state":"Running"`, "-accel kvm", "-cpu host"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in what it said:\n%s", want, said)
		}
	}
	if left := processes(t, "qemu-system"); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

// TestMachineProbeFoundKVM: nobody has told the server to use KVM; it tried, and says so.
func TestMachineProbeFoundKVM(t *testing.T) {
	s := newSpace(t, 2*time.Minute)
	if told := onHost(t, "systemctl show -P Environment nodeless; cat /etc/systemd/system/nodeless.service.env; grep -i accel /etc/nodeless/config.yaml 2>/dev/null || :"); strings.Contains(strings.ToLower(told), "accel") {
		t.Fatalf("the server was told what to use: %s", told)
	}
	var answer, config struct{ Accel, Detail string }
	for file, into := range map[string]any{"/run/nodeless/vmm/kvm-probe.json": &answer, "/run/nodeless/vmm.json": &config} {
		raw, err := host.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	if answer.Accel != "kvm" || config.Accel != "kvm" || !strings.HasPrefix(answer.Detail, "guest booted in ") {
		t.Errorf("the probe says %+v, microVMs are configured for %q; want kvm", answer, config.Accel)
	}
	nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("%d nodes, %v", len(nodes.Items), err)
	}
	for _, c := range nodes.Items[0].Status.Conditions {
		if c.Type == "Emulated" && c.Status != corev1.ConditionFalse {
			t.Errorf("the Node's condition Emulated is %s: %s", c.Status, c.Message)
		}
	}
}

// runsOnKVM: what QEMU is started with, and what the guest finds.
func runsOnKVM(s *testcluster.Space, _ *corev1.Pod) {
	t := s.T
	machines := processes(t, "qemu-system")
	if len(machines) != 1 {
		t.Fatalf("%d microVMs, want one: %v", len(machines), machines)
	}
	for _, line := range machines {
		for _, want := range []string{"-accel kvm", "-cpu host", "vhost=on"} {
			if !strings.Contains(line, want) {
				t.Errorf("QEMU's command line lacks %q:\n%s", want, line)
			}
		}
	}
	if onHost(t, "pgrep -c vhost || :") == "0" {
		t.Error("no thread of the kernel carries packets for a microVM")
	}
	if got := s.MustExec("a", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource"); got != "kvm-clock" {
		t.Errorf("the guest's clock is %q, want kvm-clock", got)
	}
	const model = "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1"
	if guest, own := s.MustExec("a", "sh", "-c", model), onHost(t, model); guest != own {
		t.Errorf("the guest's CPU is %q, the host's is %q", guest, own)
	}
}
