#!/bin/sh
# Builds the Kata shim, or runs its tests. Usage: scripts/build-shim.sh OUTPUT | --test
#
# The published Kata module lacks pkg/katautils/config-settings.go, which its own Makefile generates from a template in the
# same folder. The compiler refuses to overlay the module cache, so the module is vendored (ignored by git) and
# the generated file is overlaid on the copy, and with it what the patches in cmd/kata-shim/patches correct: see docs/adr/0021.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
cd cmd/kata-shim
out=${1:?usage: build-shim.sh OUTPUT|--test}

# pkg/contract, which is beside this module, is vendored as it is at this moment.
stamp=vendor/.nodeless-stamp
given() { cat go.mod go.sum ../../pkg/contract/go.mod ../../pkg/contract/*.go ../../pkg/contract/*/*.go; }
if ! given | cmp -s - "$stamp"; then
	rm -rf vendor
	GOFLAGS='' go mod vendor
	given >"$stamp"
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

# Kata's files are corrected by the patches, in the order of their names, in a copy of those that they are about. A patch that does
# not fit a new version of the module to the letter fails the build: is it still needed?
module=vendor/github.com/kata-containers/kata-containers/src/runtime
tree=$DIST/_overlay/kata
rm -rf "$tree"
files=$(sed -n 's|^+++ b/||p' patches/*.patch | sort -u)
for f in $files; do
	mkdir -p "$tree/$(dirname "$f")"
	[ ! -e "$module/$f" ] || cp "$module/$f" "$tree/$f"
done
for p in patches/*.patch; do
	# It takes a folder below a repository for a part of that, which this one is not.
	if ! (cd "$tree" && GIT_CEILING_DIRECTORIES="$DIST/_overlay" git apply "$OLDPWD/$p"); then
		echo "build-shim: cmd/kata-shim/$p does not fit this version of Kata; is it still needed?" >&2
		exit 1
	fi
done
for f in $files; do
	replace="$replace,\"$PWD/$module/$f\":\"$tree/$f\""
done
if [ "$out" = --test ]; then # what only tests need of Kata's insides
	for f in $(cd testdata/kata && find . -name '*.go'); do
		replace="$replace,\"$PWD/$module/${f#./}\":\"$PWD/testdata/kata/${f#./}\""
	done
fi
printf '{"Replace":{%s}}\n' "$replace" >"$DIST/_overlay/overlay.json"

export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=vendor -overlay=$DIST/_overlay/overlay.json"
if [ "$out" = --test ]; then
	exec go test -json -vet=off -ldflags '-s -w' ./...
fi
go build -ldflags '-s -w' -o "$out" .
