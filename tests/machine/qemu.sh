# shellcheck shell=sh disable=SC2154 # run, image, debian, slow and die are those of scripts/machine.sh, which sources this
# The machine itself: start and stop QEMU, reach it, wait for what happens in it.

# on COMMAND...: runs a command in the machine.
on() { ssh -F "$run/ssh_config" machine "$@" 8>&-; }

# kubectl: the product's own, here, by the forwarded port.
kubectl() { HOME=$run KUBECONFIG=$run/kubeconfig "$BUNDLE/bin/nodeless" kubectl "$@"; }

# running: whether QEMU runs; sets pid.
running() {
	pid=$(cat "$run/pid" 2>/dev/null) && [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "-pidfile $run/pid "
}

# free_processors: how many hundredths of processors are idle, over eight seconds.
free_processors() {
	idle() { awk '/^cpu / { for (i = 2; i <= 9; i++) all += $i; print $5 + $6, all }' /proc/stat; }
	before=$(idle)
	sleep 8
	echo "$before $(idle) $(nproc)" | awk '{ print int(100 * $5 * ($3 - $1) / ($4 - $2)) }'
}

# choose_slow: sets slow, by how busy this machine is, unless SLOW says it. The emulated machine wants a processor and some more, and has to
# be quick enough for a control plane by its own clock even on a quiet machine.
choose_slow() {
	free=$(free_processors)
	slow=${SLOW:-}
	if [ -z "$slow" ]; then
		if [ "$free" -ge 130 ]; then
			slow=2
		elif [ "$free" -ge 80 ]; then
			slow=3
		elif [ "$free" -ge 40 ]; then
			slow=5
		else
			slow=8
		fi
	fi
	echo "$slow" >"$run/slow"
	echo "machine: $((free / 100)).$(printf %02d $((free % 100))) processors are idle here: the machine's clock is slowed $slow times"
}

# share: how many percent of its processors the machine has for each of its seconds: what its threads got of the time they wanted, slowed.
share() {
	cat "/proc/$pid"/task/*/schedstat 2>/dev/null | awk -v slow="$slow" '{ ran += $1; waited += $2 } END { print int(100 * slow * ran / (ran + waited + 1)) }'
}

# free_port: a port of loopback that nobody listens at.
free_port() {
	while :; do
		port=$((20000 + $(od -An -N 2 -t u2 /dev/urandom) % 12000))
		[ -n "$(ss -Hltn "sport = :$port")" ] || break
	done
	echo "$port"
}

# prepare: disks, ports and what reaches the machine, for a new one.
prepare() {
	rm -rf "$run"
	mkdir -p "$run"
	cp --sparse=always "$image/base.img" "$run/disk.img"
	truncate -s 64M "$run/nvme.img"
	sockets=$(mktemp -d /tmp/nodeless-machine-XXXXXX) # names of sockets are short
	echo "$sockets" >"$run/sockets"
	free_port >"$run/ssh_port"
	free_port >"$run/api_port"
	cat >"$run/ssh_config" <<SSH
Host machine
	HostName 127.0.0.1
	Port $(cat "$run/ssh_port")
	User root
	IdentityFile $image/key
	IdentitiesOnly yes
	UserKnownHostsFile $image/known_hosts
	GlobalKnownHostsFile /dev/null
	HostKeyAlias machine
	StrictHostKeyChecking yes
	BatchMode yes
	LogLevel ERROR
	ConnectTimeout 20
	ServerAliveInterval 30
	ServerAliveCountMax 4
	ControlMaster auto
	ControlPersist 1h
	ControlPath $sockets/ssh
SSH
}

# start: power on. The network is the machine's own: nothing of it reaches the world, and loopback alone reaches it.
# Firmware, sound and what else a machine has without need are left out. The last devices are there to be passed through to microVMs.
# It has one processor: with two, the machine's own kernel did not stay whole (docs/machine.md).
start() {
	preload=
	if [ "$slow" != 1 ]; then
		gcc -O2 -Wall -shared -fPIC -o "$run/slow.so" tests/machine/testdata/slow.c -lpthread
		preload=$run/slow.so
	fi
	# shellcheck disable=SC2086 # a command and its first arguments
	LD_PRELOAD=$preload SLOW=$slow ${QEMU:-qemu-system-x86_64} -no-user-config -nodefaults -display none \
		-monitor "unix:$(cat "$run/sockets")/monitor,server=on,wait=off" \
		-machine q35,usb=off,vmport=off,smm=off,sata=off,i8042=off,hpet=off -accel tcg,thread=multi,tb-size=1024 -cpu max,la57=off,erms=off \
		-smp "${CPUS:-1}" -m "${MEMORY:-12G}" -kernel "$image/vmlinux" -initrd "$image/initrd.zst" \
		-append "console=ttyS0 quiet mitigations=off nmi_watchdog=0 no_timer_check tsc=reliable nokaslr intel_iommu=on iommu=pt" \
		-device intel-iommu,intremap=on,device-iotlb=on \
		-netdev "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:$(cat "$run/ssh_port")-:22,hostfwd=tcp:127.0.0.1:$(cat "$run/api_port")-:6443" \
		-device virtio-net-pci,netdev=n0,addr=0x3,romfile= \
		-drive "file=$run/disk.img,if=none,id=d0,format=raw,cache=unsafe,aio=threads,discard=unmap" -device virtio-blk-pci,drive=d0,serial=root,addr=0x4 \
		-device virtio-rng-pci,addr=0x5 \
		-drive "file=$run/product.img,if=none,id=d1,format=raw,readonly=on" -device virtio-blk-pci,drive=d1,serial=product,addr=0x6 \
		-device bochs-display,addr=0x10 -device edu,addr=0x11 -device e1000e,addr=0x12,romfile= \
		-drive "file=$run/nvme.img,if=none,id=d2,format=raw" -device nvme,drive=d2,serial=spare,addr=0x13 \
		-device bochs-display,addr=0x14.0,multifunction=on -device edu,addr=0x14.1 \
		-object memory-backend-ram,id=large,size=16G,reserve=off -device ivshmem-plain,memdev=large,addr=0x15 \
		-chardev "file,id=console,path=$run/console,append=on" -serial chardev:console -pidfile "$run/pid" -daemonize \
		2>"$run/qemu.log" 8>&- || die "QEMU does not start: $(cat "$run/qemu.log")"
	running || die "QEMU has ended at once: $(cat "$run/qemu.log")"
}

# hang_up: ends the connection that commands share, so that the next one is a new one.
hang_up() { ssh -F "$run/ssh_config" -O exit machine 2>/dev/null || :; }

# power_off: ends QEMU at once.
power_off() {
	hang_up
	running || return 0
	kill -9 "$pid"
	while running; do sleep 0.1; done
	rm -f "$run/pid"
}

# within SECONDS WHAT COMMAND...: waits until a command succeeds. The seconds are the machine's.
within() {
	what=$2
	end=$(($(date +%s) + $1 * slow))
	shift 2
	until "$@" >"$run/last" 2>&1; do
		running || die "QEMU has ended while this was waited for: $what"
		! panicked || give_up "$what"
		[ "$(date +%s)" -lt "$end" ] || give_up "not in time: $what: $(tail -n 5 "$run/last")"
		sleep 1
	done
}

# panicked: whether the machine's own kernel has ended.
panicked() { grep -q 'Kernel panic' "$run/console" 2>/dev/null; }

# give_up WHY: a machine that had too little time is no failure of the product.
give_up() {
	! panicked || die "the emulated machine's own kernel has panicked, which is no fault of the product: see $run/console; it went on to: $1"
	if grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; then
		echo "machine: busy: somebody has stopped QEMU, process $pid: $1" >&2
		exit 75
	fi
	had=$(share)
	if [ "$had" -lt 70 ]; then
		echo "machine: busy: the emulated machine had $had % of the processor time that it wanted, load average $(cut -d' ' -f1-3 /proc/loadavg)" >&2
		echo "machine: busy: $1" >&2
		exit 75
	fi
	die "$1"
}

# up: waits until a machine that was powered on takes commands and has started what it starts.
up() {
	within 180 "the machine boots, see $run/console" on true
	# shellcheck disable=SC2016 # for the shell over there
	within 120 "systemd has started everything" on 'case $(systemctl is-system-running) in running | degraded) ;; *) exit 1 ;; esac'
}
