#!/bin/sh
# Makes dist/release from the commit that is checked out: see docs/release.md. Usage: scripts/release.sh [--verify-reproducible]
# KEY=FILE signs with that key (bundle/sign makes one); PUBLIC_KEY=… pins a key without signing, for those who build a release again to
# compare it. The build is made in a clean clone with the versions of bundle/versions.yaml and nothing else; --verify-reproducible makes
# a second one elsewhere and compares, without writing a release.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
say() { printf '%s\n' "release: $*"; }
die() {
	printf 'release: %s\n' "$1" >&2
	exit 1
}

verify=false
case ${1:-} in
'') ;;
--verify-reproducible) verify=true ;;
*) die "usage: scripts/release.sh [--verify-reproducible]" ;;
esac
[ -z "$(git status --porcelain)" ] || die "the working tree has changes: commit them, a release is made from a commit"
key=${KEY:-}
[ -z "$key" ] || [ -r "$key" ] || die "key $key cannot be read: make one with go run ./bundle/sign new $key"

# build NAME: a clean clone in dist/release-build/NAME, built.
build() {
	clone=$DIST/release-build/$1
	rm -rf "$clone"
	mkdir -p "$clone" "$DIST/debs"
	git clone -q . "$clone"
	mkdir -p "$clone/dist/debs"
	cp "$DIST"/debs/*.deb "$clone/dist/debs/" 2>/dev/null || true # fetched packages; their names tell their versions
	# What a user's environment may say of C and of Go changes what comes out.
	(
		unset CC CXX CGO_CFLAGS CGO_CPPFLAGS CGO_LDFLAGS GOEXPERIMENT GOFIPS140 2>/dev/null || true
		export GOAMD64=v1 NODELESS_PINNED=1 LC_ALL=C TZ=UTC
		GOTOOLCHAIN=$(sed -n 's/^  go: *//p' bundle/versions.yaml)
		export GOTOOLCHAIN
		"$clone/scripts/build.sh"
	)
}

build one
out=$DIST/release
[ "$verify" = false ] || out=$DIST/release-build/release-one
KEY=$key scripts/release-files.sh "$DIST/release-build/one" "$out"
if [ "$verify" = true ]; then
	build another-one # a path of another length
	KEY=$key scripts/release-files.sh "$DIST/release-build/another-one" "$DIST/release-build/release-two"
	diff -r "$out" "$DIST/release-build/release-two" || die "the same commit gave two different releases"
	say "two builds of $(git rev-parse --short=12 HEAD) are the same to the byte:"
fi
cat "$out/SHA256SUMS"
[ ! -e "$out/SHA256SUMS.sig" ] || say "signed with the key whose public half is $(sed -n 's/^PINNED_KEY=\([^ ]*\).*/\1/p' "$out/install.sh")"
[ -e "$out/SHA256SUMS.sig" ] || say "not signed: no KEY=FILE was given"
rm -rf "$DIST/release-build"
