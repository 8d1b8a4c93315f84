#!/bin/sh
# Builds the Kata shim, or runs its tests. Usage: scripts/build-shim.sh OUTPUT | --test
#
# The published Kata module lacks pkg/katautils/config-settings.go, which its own Makefile generates from a template in the
# same folder. The compiler refuses to overlay the module cache, so the module is vendored (ignored by git) and
# the generated file is overlaid on the copy, and with it a few corrected lines: see docs/adr/0021.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
cd cmd/kata-shim
out=${1:?usage: build-shim.sh OUTPUT|--test}

stamp=vendor/.nodeless-stamp
if ! cat go.mod go.sum 2>/dev/null | cmp -s - "$stamp"; then
	rm -rf vendor
	GOFLAGS='' go mod vendor
	cat go.mod go.sum >"$stamp"
fi

settings=vendor/github.com/kata-containers/kata-containers/src/runtime/pkg/katautils
mkdir -p "$DIST/_overlay"
sed -e 's/@RUNTIME_NAME@/containerd-shim-kata-v2/' -e 's/@PROJECT_NAME@/Kata Containers/' -e 's/@PROJECT_TYPE@/kata/' \
	-e 's|@PROJECT_URL@|https://github.com/kata-containers|' -e 's/@PROJECT_ORG@/kata-containers/' -e 's|@PKGRUNDIR@|/run/vc|' \
	-e 's/@COMMIT@/754f07cff239/' -e 's/@VERSION@/3.20.0-754f07cff239/' -e 's|@CONFIG_PATH@|/etc/nodeless/kata.toml|' -e 's|@SYSCONFIG@|/etc/nodeless/kata.toml|' \
	"$settings/config-settings.go.in" >"$DIST/_overlay/config-settings.go"
if grep -q '@[A-Z_]*@' "$DIST/_overlay/config-settings.go"; then
	echo "build-shim: the template has names this script does not fill in:" >&2
	grep -n '@[A-Z_]*@' "$DIST/_overlay/config-settings.go" >&2
	exit 1
fi
replace="\"$PWD/$settings/config-settings.go\":\"$DIST/_overlay/config-settings.go\""

# correct FILE LINES SED-ARGUMENTS...: overlays a file of Kata's with an edited copy that differs in LINES new lines.
correct() {
	file=vendor/github.com/kata-containers/kata-containers/src/runtime/$1
	copy=$DIST/_overlay/${1##*/}
	lines=$2
	shift 2
	sed "$@" "$file" >"$copy"
	if [ "$(diff "$file" "$copy" | grep -c '^>')" != "$lines" ]; then
		echo "build-shim: $file has changed; is its correction still needed?" >&2
		exit 1
	fi
	replace="$replace,\"$PWD/$file\":\"$copy\""
}

# The streams of a process share one closed flag, so closing the input ended the output.
# A process that leaves its input unread for a minute was given up, its input with it.
correct virtcontainers/iostream.go 3 -e 's/return &stdinStream{s}/return \&stdinStream{newIOStream(s.sandbox, s.container, s.process)}/' \
	-e 's/writeProcessStdin(context.Background(),/writeProcessStdin(context.WithValue(context.Background(), customRequestTimeoutKey, 1<<62*time.Nanosecond),/' \
	-e 's/^	"io"$/	"io"\n	"time"/'
# CloseIO held the lock of the whole sandbox until the process had read its input, so that nothing else could be done with the Pod.
correct pkg/containerd-shim-v2/service.go 2 -e 's/^	<-stdinCloser$/	s.mu.Unlock()\n	<-stdinCloser\n	s.mu.Lock()/'
printf '{"Replace":{%s}}\n' "$replace" >"$DIST/_overlay/overlay.json"

export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=vendor -overlay=$DIST/_overlay/overlay.json"
if [ "$out" = --test ]; then
	exec go test -json -vet=off -ldflags '-s -w' ./...
fi
go build -ldflags '-s -w' -o "$out" .
