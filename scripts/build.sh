#!/bin/sh
# Builds everything: the bundle tree in dist/bundle and the file that ships, dist/nodeless.
# What is up to date is not made again. Usage: scripts/build.sh
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
mkdir -p "$DIST/out" "$BUNDLE"
exec 9>"$DIST/.build.lock" # linking takes gigabytes: one build at a time
flock 9

version=$(git describe --abbrev=12 --tags --match 'v*' 2>/dev/null || echo v0.1.0-dev)
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
own=github.com/nodeless/nodeless/pkg/version
stamp="-X $own.Version=$version -X $own.Commit=$commit"

# selected MODULE: the version that go.mod selects.
selected() { go list -m -f '{{.Version}}' "$1"; }

# small PACKAGE TARGET: a static program without C.
small() {
	echo "build: $2"
	CGO_ENABLED=0 go build -ldflags "-s -w $stamp" -o "$DIST/out/${2##*/}" "$1"
	scripts/place.sh "$DIST/out/${2##*/}" "$BUNDLE/$2"
}

# On a new machine the modules of the main program take minutes to come: they come while the small programs compile.
go list -deps ./cmd/nodeless >/dev/null 2>&1 &
modules=$!

echo "build: parts from outside"
scripts/build-bundle.sh
small ./cmd/nodeless-vmm bin/nodeless-vmm
small ./cmd/nodeless-converter bin/nodeless-converter
small ./cmd/nodeless-virtiofsd bin/virtiofsd

echo "build: cni/nodeless"
CGO_ENABLED=0 go build -ldflags "-s -w $stamp" -o "$DIST/out/cni" ./cmd/nodeless-cni
scripts/place.sh "$DIST/out/cni" "$BUNDLE/cni/nodeless"

echo "build: guest/initrd"
VERSION=$version scripts/build-guest.sh "$DIST/out/nodeless-guest"
"$DIST/tools/mkinitrd" -versions bundle/versions.yaml -modules "$(echo "$DIST"/kernel/usr/lib/modules/*)" \
	-init "$DIST/out/nodeless-guest" -out "$DIST/out/initrd"
scripts/place.sh "$DIST/out/initrd" "$BUNDLE/guest/initrd" 0644

echo "build: bin/containerd-shim-kata-v2"
scripts/build-shim.sh "$DIST/out/containerd-shim-kata-v2"
scripts/place.sh "$DIST/out/containerd-shim-kata-v2" "$BUNDLE/bin/containerd-shim-kata-v2"

echo "build: images"
go run ./bundle/images -out "$BUNDLE/images"

# The main program, static with C (SQLite).
echo "build: bin/nodeless"
wait "$modules" || true # go build says what is wrong
kubernetes=$(selected k8s.io/kubernetes)
minor=${kubernetes#v1.}
minor=${minor%%.*}
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	stamp="$stamp -X $package.gitVersion=$kubernetes+nodeless -X $package.gitMajor=1 -X $package.gitMinor=$minor"
done
stamp="$stamp -X github.com/containerd/containerd/v2/version.Version=$(selected github.com/containerd/containerd/v2)+nodeless"
go build -ldflags "-s -w -linkmode external -extldflags -static $stamp" -o "$DIST/out/nodeless" ./cmd/nodeless
scripts/place.sh "$DIST/out/nodeless" "$BUNDLE/bin/nodeless"

echo "build: dist/nodeless"
# Licences are read where the modules are. NODELESS_PINNED=1, as releases set it, insists on every version of bundle/versions.yaml.
GOMODCACHE=$(go env GOMODCACHE) "$DIST/tools/mkmanifest" ${NODELESS_PINNED:+-pinned} -tree "$BUNDLE" -versions bundle/versions.yaml -debian "$DIST/parts-debian.json" -version "$version" "$DIST/out/nodeless-guest"
CGO_ENABLED=0 go build -ldflags "-s -w" -o "$DIST/out/nodeless-launcher" ./cmd/nodeless-launcher
"$DIST/tools/pack" -tree "$BUNDLE" -launcher "$DIST/out/nodeless-launcher" -out "$DIST/nodeless"
(cd "$DIST" && sha256sum nodeless >nodeless.sha256) # what install.sh checks
