package machine_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Spare devices of the machine (tests/machine/qemu.sh), one IOMMU group each but for the two functions of a card.
const (
	display = "0000:00:10.0"
	edu     = "0000:00:11.0"
	first   = "0000:00:14.0" // another display
	second  = "0000:00:14.1" // and edu
	large   = "0000:00:15.0" // a BAR of 16 GiB
	spare   = display + " " + edu + " " + first + " " + second + " " + large
)

// withDevices has functions for scripts about microVMs with devices. begin starts a nodeless-vmm by itself, in a folder of a name; create
// and ask speak to it; finish ends it.
const withDevices = `
top=/tmp/nodeless-devices
bundle=$(readlink -f /var/lib/nodeless/bundle/current)
mkdir -p $top
begin() {
	dir=$top/$1
	mkdir -p "$dir/scratch" "$dir/log"
	printf '{"bundle":"%s","accel":"kvm","scratchDir":"%s/scratch","logDir":"%s/log"}' "$bundle" "$dir" "$dir" >"$dir/config.json"
	# It ends with who has started it: a shell that waits for it.
	NODELESS_VMM_CONFIG=$dir/config.json setsid sh -c '"$0" --api-socket "$1/api" & echo $! >"$1/pid"; wait' \
		"$bundle/bin/nodeless-vmm" "$dir" 2>"$dir/errors" >/dev/null </dev/null &
	for i in 1 2 3 4 5 6 7 8 9 10; do [ -S "$dir/api" ] || sleep 1; done
}
ask() { curl -sS --max-time 280 --unix-socket "$top/$1/api" -w 'status %{http_code}\n' -X "$2" "http://vmm/api/v1/$3" ${4:+-d "$4"}; }
create() {
	list=
	name=$1
	shift
	for d in "$@"; do list="$list${list:+,}{\"path\":\"$d\",\"iommu\":false}"; done
	ask "$name" PUT vm.create '{"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":268435456},"vsock":{"socket":"'$top/$name'/agent"},"devices":['"$list"'],
		"payload":{"kernel":"'$bundle'/guest/vmlinux","initramfs":"'$top'/initrd","cmdline":"quiet rdinit=/testguest testguest.devices"}}'
}
finish() {
	ask "$1" PUT vmm.shutdown
	for i in 1 2 3 4 5 6 7 8 9 10; do [ ! -d "/proc/$(cat "$top/$1/pid")" ] || sleep 1; done
	[ ! -d "/proc/$(cat "$top/$1/pid")" ] || { echo "nodeless-vmm does not end"; cat "$top/$1/errors"; kill -9 "$(cat "$top/$1/pid")"; }
	rm -r "${top:?}/$1"
}
refusal() { begin refused; create refused "$@"; finish refused >/dev/null; }
in=/sys/bus/pci/devices
`

// script runs a shell script in the machine with an input, and gives what it prints.
func script(t *testing.T, limit time.Duration, text string, input []byte) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), host.Patience(limit))
	defer cancel()
	cmd := host.Command(ctx, "sh", "-c", text)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// wants checks that a text has each of the words.
func wants(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q is not in it:\n%s", what, w, text)
		}
	}
}

// TestMachineDevicePassThrough: a microVM on KVM has devices of the host from its boot on, and works with them. QEMU's jail has no more
// than they take. What cannot be passed through is refused with words. It takes the bundle and no server.
func TestMachineDevicePassThrough(t *testing.T) {
	before := onHost(t, drivers)
	upload(t)
	bound := false
	defer func() {
		if bound {
			onHost(t, handBack)
		}
		if left := processes(t, "/tmp/nodeless-devices"); len(left) > 0 {
			t.Errorf("left running: %v", left)
		}
		onHost(t, "rm -r /tmp/nodeless-devices")
		if after := onHost(t, drivers); after != before {
			t.Errorf("drivers of the devices are %q, and were %q", after, before)
		}
	}()
	wants(t, "a device that is not bound", script(t, 2*time.Minute, withDevices+"refusal $in/"+display, nil),
		"status 500", "pass through "+display, "it is not bound to vfio-pci", "echo vfio-pci > /sys/bus/pci/devices/"+display+"/driver_override")
	wants(t, "a path that is none", script(t, 2*time.Minute, withDevices+"refusal $in/../devices/"+display, nil), "status 500", "it is not the path of a PCI device")

	bound = true
	onHost(t, "set -- "+strings.ReplaceAll(spare, " "+second, "")+"\n"+handOver)
	wants(t, "a function whose neighbour has another driver, or none", script(t, 2*time.Minute, withDevices+"refusal $in/"+first, nil),
		"status 500", "its IOMMU group is shared: "+second+" has no driver", "hand "+second+" to vfio-pci")
	onHost(t, "set -- "+second+"\n"+handOver)
	group := strings.Fields(onHost(t, "for d in "+spare+"; do basename $(readlink -f /sys/bus/pci/devices/$d/iommu_group); done"))
	if len(group) != 5 || group[2] != group[3] {
		t.Fatalf("groups %q", group)
	}
	wants(t, "a device that a program has", script(t, 2*time.Minute, withDevices+"exec 7<>/dev/vfio/"+group[1]+"\nrefusal $in/"+edu+"\nexec 7<&-", nil),
		"status 500", "IOMMU group "+group[1], "another microVM or program has it")
	// All are named as a Pod's devices would be, but one by where that leads to.
	all := strings.Join([]string{"$in/" + display, "$(readlink -f $in/" + edu + ")", "$in/" + first, "$in/" + second, "$in/" + large}, " ")
	booted := script(t, 5*time.Minute, withDevices+"begin first\ncreate first "+all+"\nask first PUT vm.boot", nil)
	if strings.Count(booted, "status 204") != 2 {
		t.Fatalf("vm.create and vm.boot: %s", booted)
	}
	console := script(t, time.Minute, withDevices+"cat $top/first/log/*.console.log", nil)
	t.Log(console)
	wants(t, "the guest", console, "device 10/00 1234:1111 works", "device 11/00 1234:11e8 works", "device 12/00 1234:1111 works", "device 12/00.1 1234:11e8 works",
		"device 13/00 1af4:1110 works", "memory of 16 MiB", "memory of 16384 MiB", "both ways", " 10/00 1234:1111 0:16M@", " 11/00 1234:11e8 0:1M@", " 2:16384M@")
	wantJail(t, group)
	wants(t, "a device that another microVM has", script(t, 2*time.Minute, withDevices+"refusal $in/"+edu, nil), "status 500", "another microVM or program has it")
	wants(t, "a device for a microVM that runs", script(t, time.Minute, withDevices+`ask first PUT vm.add-device '{"path":"/sys/bus/pci/devices/`+edu+`"}'`, nil),
		"status 500", "QEMU's jail shows the devices that it was made with", "devices in vm.create")
	script(t, 2*time.Minute, withDevices+"finish first", nil)
	wants(t, "a device whose microVM has ended", script(t, 2*time.Minute, withDevices+"refusal "+all, nil), "status 204")
	wants(t, "devices whose nodeless-vmm is killed", script(t, 4*time.Minute, withDevices+"all='"+all+"'\n"+killed, nil), "QEMU has them", "status 500", "status 204")
}

// killed starts a microVM with the devices in $all and kills its nodeless-vmm as soon as QEMU has them: both end, and they are free.
const killed = `
begin killed
eval "create killed $all" >$top/killed/said
ask killed PUT vm.boot >/dev/null 2>&1 &
for i in $(seq 60); do
	open=$(find /proc/[0-9]*/fd -lname '*/vfio/vfio' 2>/dev/null | head -n 1)
	[ -z "$open" ] || break
	sleep 1
done
echo "QEMU has them: ${open:?}"
eval "refusal $all"
vmm=$(cat $top/killed/pid)
kill -9 "$vmm"
for i in $(seq 30); do
	free=$(eval "refusal $all")
	case $free in *204*) break ;; esac
	sleep 1
done
echo "$free"
rm -r $top/killed`

// drivers says who has the devices, and which of vfio's nodes and modules there are.
const drivers = `
for d in ` + spare + `; do basename "$(readlink /sys/bus/pci/devices/$d/driver || echo none)"; cat /sys/bus/pci/devices/$d/driver_override; done
ls /dev/vfio 2>/dev/null | grep -v vfio
sed -n 's/^\(vfio[^ ]*\) .*/\1/p' /proc/modules | sort`

// handOver binds the devices named behind it to vfio-pci.
const handOver = `set -e
modprobe vfio-pci
for d; do
	echo vfio-pci >/sys/bus/pci/devices/$d/driver_override
	[ ! -e /sys/bus/pci/devices/$d/driver ] || echo $d >/sys/bus/pci/devices/$d/driver/unbind
	echo $d >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink /sys/bus/pci/devices/$d/driver)")" = vfio-pci ]
done
udevadm settle`

const handBack = `
for d in ` + spare + `; do
	echo $d >/sys/bus/pci/drivers/vfio-pci/unbind 2>/dev/null || : # not yet bound
	echo >/sys/bus/pci/devices/$d/driver_override
	echo $d >/sys/bus/pci/drivers_probe
done
modprobe -r vfio-pci
modprobe -r vfio_iommu_type1
modprobe -r vfio_virqfd 2>/dev/null || : # newer kernels have it in vfio
udevadm settle`

// upload brings the initrd of a guest that works with devices: pkg/vmm's test guest behind the bundle's initrd.
func upload(t *testing.T) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "testguest")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "../../pkg/vmm/internal/testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	script(t, time.Minute, withDevices+"cat $bundle/guest/initrd - >$top/initrd && chmod 644 $top/initrd", archive("testguest", content))
}

// archive is a cpio with one program; the kernel unpacks several archives one after the other.
func archive(name string, content []byte) []byte {
	var b bytes.Buffer
	for _, e := range []struct {
		name    string
		content []byte
	}{{name, content}, {"TRAILER!!!", nil}} {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, 0o100755, 0, 0, 1, 0, len(e.content), 0, 0, 0, 0, len(e.name)+1, 0)
		for _, part := range [][]byte{append([]byte(e.name), 0), e.content} {
			b.Write(part)
			b.Write(make([]byte, (4-b.Len()%4)%4))
		}
	}
	return b.Bytes()
}

// wantJail checks the rights of the QEMU with devices, and what its jail shows of the host's devices.
func wantJail(t *testing.T, group []string) {
	t.Helper()
	said := script(t, time.Minute, withDevices+`
vmm=$(cat $top/first/pid)
qemu=$(cat /proc/$vmm/task/*/children)
echo "user $((0x78000000 + vmm))"
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|VmLck):' /proc/$((qemu))/status | tr -s ' \t' ' '
sed -n 's/^Max locked memory */may lock /p' /proc/$((qemu))/limits | tr -s ' '
cd /proc/$((qemu))/root && find dev sys ! -type d -printf 'seen %p %y %m %U %l\n' | sort`, nil)
	var user string
	if _, err := fmt.Sscanf(said, "user %s\n", &user); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	const none, mib = "0000000000000000", 1 << 20
	wants(t, "QEMU", said, strings.Repeat(" "+user, 4)+"\nGid:"+strings.Repeat(" "+user, 4)+"\nGroups:", "CapEff: "+none, "CapPrm: "+none, "CapBnd: "+none, "CapInh: "+none, "CapAmb: "+none,
		"NoNewPrivs: 1", "Seccomp: 2", "VmLck: 262144 kB", fmt.Sprintf("may lock %d %d bytes", 512*mib, 512*mib))
	var seen []string
	for line := range strings.Lines(said) {
		if what, ok := strings.CutPrefix(line, "seen "); ok {
			seen = append(seen, strings.TrimSpace(what))
		}
	}
	want := []string{"dev/kvm c 600 " + user, "dev/vfio/vfio c 600 " + user}
	for i, address := range strings.Fields(spare) {
		want = append(want, "dev/vfio/"+group[i]+" c 600 "+user, "sys/bus/pci/devices/"+address+"/iommu_group l 777 0 ../../../../kernel/iommu_groups/"+group[i])
	}
	slices.Sort(want)
	want = slices.Compact(want) // two are of one group
	slices.Sort(seen)
	if !slices.Equal(want, seen) {
		t.Errorf("devices in QEMU's jail:\n%s\nwant:\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}
