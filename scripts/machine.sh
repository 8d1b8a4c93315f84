#!/bin/sh
# Runs the product in a whole emulated Debian machine, where KVM, cgroup v2 and systemd are real (docs/machine.md): installs it by
# install.sh, runs tests through the machine's forwarded ports, reboots, cuts the power, upgrades, uninstalls, compares before and after.
# Usage: scripts/machine.sh, with in the environment
#   DEBIAN=12|13      the machine's Debian (default 12)
#   SHORT=1           only: does KVM boot a guest, by itself, by nodeless-vmm alone, and in one Pod
#   STEP="NAME..."    only these steps, of: boot install tests reboot powercut upgrade uninstall; a machine that runs is used
#   KEEP=1            leave the machine running at the end, and say how to reach it
#   OLD=FILE          a release of nodeless to install first, which is then upgraded to the one built here
#   RUN=REGEXP        which tests, in place of those below
#   SLOW=N            how many times to slow the machine's clock, in place of a choice by how busy this machine is
# The last line: "machine: debian=12 kvm=yes …". Exit code 75: this machine was too busy to tell.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
debian=${DEBIAN:-12}
steps=${STEP:-boot install tests reboot powercut upgrade uninstall}
[ -z "${SHORT:-}" ] || steps=${STEP:-boot short}
here=$DIST/machine
run=$here/run$debian
image=$here/debian$debian-$(cat tests/machine/image.sh tests/machine/init | sha256sum | cut -c1-12)

# Tests of tests/vm that run here: each kind of thing once, and what looks at the host. Those that skip here are left out.
# A microVM boots in half a minute there: the rest of tests/vm is left to machines of their size.
vm_tests='GuestKernelIsNotTheHosts|LimitsAreTrueInsideTheGuest|OutOfMemoryIsReported|ExecExitCodeAndInput|EnvironmentAndVolumes|SecondServerIsRefusedWithThePid|PodWhoseBootsFail'

die() {
	echo "machine: $1" >&2
	exit 1
}

. tests/machine/qemu.sh

# result KEY VALUE: for the last line; a later step may be of another run of this script.
result() { echo "$1=$2" >>"$run/results"; }

# of KEY: the result, or "-".
of() { sed -n "s/^$1=//p" "$run/results" 2>/dev/null | tail -n 1 | grep . || echo -; }

say() { echo "machine: $(($(date +%s) - began)) s: $*"; }

# make_image makes the machine's disk, kernel and keys, once for each recipe.
make_image() {
	[ ! -s "$image/base.img" ] || return 0
	rm -rf "$here/debian$debian-"*
	tests/machine/image.sh "$debian" "$image"
}

# make_product makes the disk that brings both versions of the product, install.sh and the examples.
make_product() {
	files=$here/product
	next=$here/next
	rm -rf "$files"
	mkdir -p "$files/next" "$next"
	if [ -n "${OLD:-}" ]; then
		result upgrade-of "$OLD"
		cp "$OLD" "$files/nodeless"
		cp --reflink=auto "$DIST/nodeless" "$files/next/nodeless"
	else
		result upgrade-of "the same programs, packed as another version"
		cp --reflink=auto "$DIST/nodeless" "$files/nodeless"
		# What is packed is the tree of the build, by hard links, with another version in its manifest.
		rm -rf "$next/tree"
		cp -al "$BUNDLE" "$next/tree"
		GOMODCACHE=$(go env GOMODCACHE) "$DIST/tools/mkmanifest" -tree "$next/tree" -versions bundle/versions.yaml -debian "$DIST/parts-debian.json" \
			-version v9.9.9-next "$DIST/out/nodeless-guest"
		"$DIST/tools/pack" -tree "$next/tree" -launcher "$DIST/out/nodeless-launcher" -out "$next/nodeless"
		cp --reflink=auto "$next/nodeless" "$files/next/nodeless"
	fi
	(cd "$files" && sha256sum nodeless >nodeless.sha256 && cd next && sha256sum nodeless >nodeless.sha256)
	cp -r install.sh manifests/examples "$files"
	mkfs.ext4 -q -F -L product -d "$files" "$run/product.img" 400M
	rm -rf "$files"
}

# mount_product shows the machine the files that it installs from.
mount_product() { on 'mountpoint -q /media/product || mount -o ro /dev/disk/by-id/virtio-product /media/product'; }

# connect fetches the administrator's kubeconfig, as a user does who works from elsewhere.
connect() {
	within 60 "the kubeconfig is there" on cat /etc/nodeless/kubeconfig
	sed "s#server: .*#server: https://127.0.0.1:$(cat "$run/api_port")#" "$run/last" >"$run/kubeconfig"
	chmod 600 "$run/kubeconfig"
	within 120 "the node is Ready" node_ready
}

node_ready() { kubectl wait node --all --for=condition=Ready --timeout=10s; }

# pods prints uid, restarts and the guest's boot of each Pod of the example.
pods() {
	kubectl get pods -l app=hello -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount} {.metadata.name}{"\n"}{end}' |
		sort | while read -r uid restarts name; do
		boot=$(kubectl exec "$name" -- cat /proc/sys/kernel/random/boot_id </dev/null)
		echo "$uid $restarts $boot"
	done
}

# hello_ready: whether both Pods of the example are ready, and none else is there.
hello_ready() {
	ready=$(kubectl get pods -l app=hello -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}')
	echo "Pods are ready: $ready"
	[ "$ready" = "True True " ]
}

answers() { on "curl -sS --max-time 10 http://$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')"; }

# hello starts the example, unless it runs.
hello() {
	kubectl apply -f manifests/examples/hello.yaml >"$run/last" 2>&1 || give_up "apply the example: $(cat "$run/last")"
	within 180 "both Pods of the example are ready" hello_ready
	within 60 "its Service answers" answers
}

# came_back HOW FILE: after a start of the machine, the Pods of before are there, each booted once more.
came_back() {
	within 240 "the service is active after the $1" on systemctl is-active nodeless
	within 120 "the node is Ready after the $1" node_ready
	within 300 "both Pods are ready after the $1" booted_anew "$2"
	within 60 "their Service answers after the $1" answers
	result "$1" ok
}

# booted_anew FILE: whether the Pods of the file are there, all ready, and each in another boot.
booted_anew() {
	hello_ready || return 1
	pods >"$run/now"
	cat "$run/now"
	[ "$(cut -d' ' -f1 "$1")" = "$(cut -d' ' -f1 "$run/now")" ] &&
		[ -z "$( (cut -d' ' -f3 "$1" && cut -d' ' -f3 "$run/now") | sort | uniq -d)" ]
}

step_boot() {
	if running; then
		slow=$(cat "$run/slow")
		say "a machine runs already"
		return
	fi
	make_image
	prepare
	make_product
	choose_slow
	start
	up
	mount_product
	result cgroup "$(on 'stat -f -c %T /sys/fs/cgroup' | sed 's/^cgroup\(.\)fs$/\1/; t; s/.*/1/')"
	result systemd "$(on 'test -d /run/systemd/system && echo yes || echo no')"
	on sh -s <tests/machine/state.sh >"$run/before"
	say "booted: $(on uname -r), $(on systemd-analyze | head -n 1)"
}

install_product() { # install_product FILE
	on "cd /media/product && NODELESS_INSTALL_FILE=/media/product/$1 sh install.sh" >"$run/install.log" 2>&1 &
	installing=$!
	end=$(($(date +%s) + 300 * slow))
	while kill -0 "$installing" 2>/dev/null; do
		[ "$(date +%s)" -lt "$end" ] || {
			kill "$installing"
			give_up "install.sh has not ended in time: $(tail -n 5 "$run/install.log")"
		}
		sleep 1
	done
	wait "$installing" || give_up "install.sh failed: $(tail -n 20 "$run/install.log")"
}

step_install() {
	install_product nodeless
	connect
	on nodeless check >"$run/check" 2>&1 || give_up "nodeless check: $(cat "$run/check")"
	result kvm "$(grep -q '^pass *microVM.*guest booted' "$run/check" && echo yes || echo no)"
	say "installed; $(grep '^[a-z]* *microVM ' "$run/check" | tr -s ' ')"
	hello
	result first-pod-seconds "$(first_pod)"
	kubectl delete -f manifests/examples/hello.yaml >/dev/null
	say "the first Pod ran $(of first-pod-seconds) s after it was applied"
}

# first_pod: by the machine's own clock, from a Pod's creation until its container runs, the least of them.
first_pod() {
	kubectl get pods -l app=hello -o 'jsonpath={range .items[*]}{.metadata.creationTimestamp} {.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}' |
		while read -r made ran; do echo "$(($(date -d "$ran" +%s) - $(date -d "$made" +%s)))"; done | sort -n | head -n 1
}

# go_test NAME TIMEOUT ARGUMENTS...: runs tests against the machine; their verdicts are in $run/NAME.json.
go_test() {
	name=$1
	limit=$2
	shift 2
	NODELESS_MACHINE=$run go test -json -vet=off -ldflags '-s -w' -count=1 -p 1 -timeout "$((limit * slow))s" "$@" >"$run/$name.json" 2>&1 8>&- || :
	"$here/summary" "$run/$name.json" || :
}

step_tests() {
	regexp="^Test($vm_tests)\$|^TestMachine"
	go_test tests 1500 -parallel 2 -run "${RUN:-$regexp}" ./tests/vm ./tests/machine
	last=$("$here/summary" -final "$run/tests.json" | tail -n 1) || :
	result tests "$(echo "$last" | sed -n 's/^\([0-9]*\) passed.*/\1/p')"
	result failed "$(echo "$last" | sed -n 's/.* \([0-9]*\) failed.*/\1/p')"
	say "tests: $last"
	[ "$(of failed)" = 0 ] || give_up "tests failed, see $run/tests.json"
}

step_short() {
	on 'install -m 755 /media/product/nodeless /usr/local/bin/nodeless && nodeless check' >"$run/check" 2>&1 || :
	result kvm "$(grep -q '^pass *microVM.*guest booted' "$run/check" && echo yes || echo no)"
	say "the probe: $(grep '^[a-z]* *microVM ' "$run/check" | tr -s ' ')"
	[ "$(of kvm)" = yes ] || give_up "the probe did not find KVM: $(cat "$run/check")"
	go_test short 400 -run '^TestVMMAlone|^TestMachineDevicePassThrough' ./tests/machine
	step_install
}

step_reboot() {
	hello
	pods >"$run/pods"
	boot=$(on cat /proc/sys/kernel/random/boot_id)
	on systemctl reboot >/dev/null 2>&1 || :
	hang_up
	within 240 "the machine reboots" on "grep -qv $boot /proc/sys/kernel/random/boot_id"
	up
	mount_product
	came_back reboot "$run/pods"
	say "rebooted; both Pods are back"
}

step_powercut() {
	hello
	pods >"$run/pods"
	power_off
	start
	up
	mount_product
	came_back powercut "$run/pods"
	say "the power was cut; both Pods are back"
}

# version prints what is installed, with the bundle that it runs from: two builds can be of one version.
# shellcheck disable=SC2016 # for the shell over there
version() { on 'echo "$(nodeless version --bundle | sed -n "s/^nodeless *\([^ ]*\).*/\1/p") ($(readlink /var/lib/nodeless/bundle/current))"'; }

# one_bundle: whether only one version is unpacked.
one_bundle() {
	on ls /var/lib/nodeless/bundle >"$run/bundles"
	cat "$run/bundles"
	[ "$(grep -c '^[0-9a-f]\{16\}$' "$run/bundles")" = 1 ]
}

step_upgrade() {
	hello
	pods >"$run/pods"
	was=$(version)
	install_product next/nodeless
	within 120 "the node is Ready after the upgrade" node_ready
	within 60 "exec works after the upgrade" hello_ready
	pods >"$run/now"
	is=$(version)
	[ "$was" != "$is" ] || die "the version is $is as before the upgrade"
	cmp -s "$run/pods" "$run/now" || die "the upgrade changed running Pods: $(diff "$run/pods" "$run/now")"
	kubectl rollout restart deployment/hello >/dev/null # Pods of the new version
	kubectl rollout status deployment/hello --timeout="$((180 * slow))s" >"$run/last" 2>&1 || give_up "Pods of the new version: $(cat "$run/last")"
	within 120 "the old Pods are gone" hello_ready
	within 180 "the bundle of $was is gone, as nothing runs from it any more" one_bundle
	result upgrade ok
	say "upgraded from $was to $is; the Pods ran on, and the bundle that they ran from went with them"
}

step_uninstall() {
	result pods "$(on nodeless usage -o json | grep -c '"pod"')"
	on nodeless uninstall --yes >"$run/uninstall.log" 2>&1 || give_up "uninstall: $(tail -n 20 "$run/uninstall.log")"
	on sh -s <tests/machine/state.sh >"$run/after"
	diff "$run/before" "$run/after" | grep '^[<>]' >"$run/left" || :
	if [ -s "$run/left" ]; then
		result uninstall dirty
		head -n 60 "$run/left"
		die "uninstall left the machine in another state, see $run/left"
	fi
	result uninstall clean
	say "uninstalled; the machine is as before"
}

finish() {
	code=$?
	if [ -n "${KEEP:-}" ] && running; then
		echo "machine: it runs on: ssh -F $run/ssh_config machine; KUBECONFIG=$run/kubeconfig; its end: kill $pid"
		exit "$code"
	fi
	power_off
	rm -rf "$(cat "$run/sockets" 2>/dev/null)"
	exit "$code"
}

scripts/deps.sh machine
mkdir -p "$here"
exec 8>"$here/.lock$debian"
flock -n 8 || die "another machine of Debian $debian runs here"
began=$(date +%s)
[ -n "${NO_BUILD:-}" ] || scripts/build.sh
go build -o "$here/summary" ./tests/summary
trap finish EXIT
trap 'exit 130' INT TERM HUP
slow=1
for step in $steps; do
	[ "$step" = boot ] || running || die "no machine runs for the step $step: begin with STEP=boot"
	slow=$(cat "$run/slow" 2>/dev/null || echo 1)
	"step_$step"
done
[ "$(of upgrade)" = - ] || echo "machine: the upgrade was to $(of upgrade-of)"
echo "machine: debian=$debian kvm=$(of kvm) cgroup=$(of cgroup) systemd=$(of systemd) pods=$(of pods) tests=$(of tests) failed=$(of failed)" \
	"first-pod-seconds=$(of first-pod-seconds) reboot=$(of reboot) powercut=$(of powercut) upgrade=$(of upgrade) uninstall=$(of uninstall)"
