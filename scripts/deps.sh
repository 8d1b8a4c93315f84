#!/bin/sh
# Installs what a build needs from Debian and checks the Go toolchain; does nothing when all is there.
# Usage: scripts/deps.sh [build|test|machine|conformance|bench]   (each includes the ones before it)
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
what=${1:-build}

# C for SQLite, and for the guest's namespace code with libseccomp. e2fsprogs: the scratch disk. dpkg: unpacks packages.
packages="busybox-static gcc libc6-dev pkg-config libseccomp-dev make git ca-certificates e2fsprogs dpkg"
case $what in
build) ;;
test) packages="$packages iptables nftables iproute2 procps util-linux curl wget erofs-utils xfsprogs shellcheck openssl" ;;
machine) packages="$packages mmdebstrap openssh-client zstd xz-utils iptables nftables iproute2 procps util-linux curl wget erofs-utils xfsprogs qemu-system-x86 shellcheck openssl" ;;
conformance) packages="$packages bash-static mmdebstrap iptables nftables iproute2 procps util-linux curl wget erofs-utils xfsprogs shellcheck openssl" ;;
bench) packages="$packages iptables nftables iproute2 procps util-linux curl wget erofs-utils xfsprogs shellcheck openssl runc" ;;
*)
	echo "usage: scripts/deps.sh [build|test|machine|conformance|bench]" >&2
	exit 2
	;;
esac

missing=
for p in $packages; do
	# shellcheck disable=SC2016 # a format of dpkg, not of the shell
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
known=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: *//p')
if [ -n "$missing" ] || [ -z "$known" ] || [ "$known" = "(none)" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "deps: not root; as root run: apt-get update && apt-get install$missing" >&2
		exit 1
	fi
	apt-get update -qq
fi
if [ -n "$missing" ]; then
	echo "deps: installing$missing"
	# shellcheck disable=SC2086 # a list
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

want=$(sed -n 's/^go //p' go.mod)
if ! command -v go >/dev/null 2>&1; then
	echo "deps: no Go toolchain. Debian's is too old; unpack Go $want or newer for linux-amd64 to /usr/local/go." >&2
	exit 1
fi
# A toolchain since 1.21 fetches the one that go.mod asks for by itself, unless GOTOOLCHAIN forbids it.
if ! have=$(go version 2>&1); then
	echo "deps: the Go toolchain cannot build this module (wants $want): $have" >&2
	echo "deps: unpack Go $want or newer for linux-amd64 to /usr/local/go." >&2
	exit 1
fi
