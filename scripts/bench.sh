#!/bin/sh
# Builds the product and measures it; prints the lines `bench NAME VALUE UNIT` that docs/SPECIFICATION.md names.
# Usage: [KVM=1] scripts/bench.sh [-quick] [-only start|pods|hpa|writes|admission|growth] [-profiles FOLDER] [-- FLAG-OF-THE-SERVER...]
# KVM=1 measures on KVM and fills the page's column of that, headed by the host's name; on a machine that is emulated itself, where
# seconds say nothing, it measures under TCG as well and prints ratios, marked as such.
# GOGC, GOMEMLIMIT and GODEBUG go to the server. Run it on a quiet machine. It takes some 25 minutes under emulation.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh bench
scripts/build.sh
go build -ldflags '-s -w' -o "$DIST/bench" ./tests/bench
go build -ldflags '-s -w' -o "$DIST/containerd-shim-runc-v2" github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
[ "${KVM:-}" = 1 ] || exec "$DIST/bench" -dist "$DIST" "$@"

# measure ACCEL: a run, shown and kept in dist/bench.ACCEL.
measure() {
	accel=$1
	shift
	NODELESS_ACCEL=$accel "$DIST/bench" -dist "$DIST" "$@" >"$DIST/bench.$accel" || { cat "$DIST/bench.$accel"; exit 1; }
	cat "$DIST/bench.$accel"
}

[ -c /dev/kvm ] || {
	echo "bench: no /dev/kvm: KVM=1 wants a host with hardware virtualisation (VT-x or AMD-V on in its firmware, module kvm_intel or kvm_amd)" >&2
	exit 1
}
measure kvm "$@"
if grep -q '^model name.*QEMU TCG' /proc/cpuinfo; then
	echo "# this machine is emulated: its seconds say nothing of KVM. Ratios of KVM to TCG within it follow"
	measure tcg "$@" >/dev/null
	exec "$DIST/bench" column "$DIST/bench.kvm" "$DIST/bench.tcg"
fi
"$DIST/bench" column docs/SPECIFICATION.md "On KVM: $(uname -n), $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$DIST/bench.kvm"
echo "# docs/SPECIFICATION.md has the column of this host"
