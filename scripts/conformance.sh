#!/bin/sh
# Runs Kubernetes' conformance tests against the product in a test host, and says what passed (docs/conformance.md).
# Usage: GROUP=… SIZING=native|spec scripts/conformance.sh [flags of tests/conformance]
# GROUP is api, node, storage, network, apps, auth, cli, scheduling, webhooks or all.
# What passed in an earlier run, or failed for a known cause, is not run again; `rm -r dist/conformance/state` begins anew.
# BUILD=only builds and ends.
# The last line: "conformance: passed=N failed=N not-run=N of 462". The exit code is 1 when a test fails for no known cause.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh conformance
scripts/build.sh
here=$DIST/conformance
mkdir -p "$here/mod" "$here/bin" "$here/images" "$here/state"

# The base of upstream's images, a small Debian, comes while the tests compile.
base=$here/images/base.tar
packages=curl,netcat-openbsd,iproute2,bind9-dnsutils,socat,iperf,nginx-light,procps
fetching=
if [ "$(cat "$base.of" 2>/dev/null)" != "$packages" ]; then
	echo "conformance: fetching a Debian for the images"
	mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$base" &
	fetching=$!
fi

# A module of its own with the product's versions and flags: but for what the tests alone use, all is in the build cache.
sed -e 's/^module .*/module conformance/' -e '/\/pkg\/contract/d' go.mod >"$here/mod/go.mod"
cp go.sum "$here/mod/go.sum"
cp tests/conformance/testdata/tools.go.txt "$here/mod/tools.go"
kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
source=$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)
minor=${kubernetes#v1.}
minor=${minor%%.*}
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do # the tests ask which version they are of
	stamp="$stamp -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=$minor"
done
(
	cd "$here/mod"
	GOFLAGS=$(echo "$GOFLAGS" | sed 's/-mod=readonly/-mod=mod/')
	echo "conformance: building the tests"
	go build -o ../bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo
	go build -ldflags "-s -w -X main.Version=2.66.1" -o ../bin/agnhost k8s.io/kubernetes/test/images/agnhost
	go build -ldflags "-s -w" -o ../bin/nnp k8s.io/kubernetes/test/images/nonewprivs
	CGO_ENABLED=0 go build -ldflags "-s -w" -o ../bin/etcd go.etcd.io/etcd/server/v3
	CGO_ENABLED=0 go build -ldflags "-s -w" -o ../bin/sample-apiserver k8s.io/sample-apiserver
	go test -c -vet=off -ldflags "-s -w $stamp" -o ../bin/e2e.test k8s.io/kubernetes/test/e2e
)
gcc -Os -static -DVERSION=3.10.2 -o "$here/bin/pause" "$source/build/pause/linux/pause.c"
gcc -Os -static -o "$here/bin/sh" tests/conformance/testdata/sh.c
ln -sf "$DIST/nodeless" "$here/bin/kubectl"
go build -ldflags '-s -w' -o "$here/conformance" ./tests/conformance

if [ -n "$fetching" ]; then
	wait "$fetching"
	echo "$packages" >"$base.of"
fi
sum=$(cat "$base.of" tests/conformance/*.go "$here/bin/agnhost" "$here/bin/nnp" "$here/bin/etcd" "$here/bin/sample-apiserver" "$here/bin/pause" "$here/bin/sh" | sha256sum)
if [ "$(cat "$here/images/made" 2>/dev/null)" != "$sum" ]; then
	echo "conformance: making the images"
	"$here/conformance" images -bin "$here/bin" -base "$base" -sources "$source/test/images" -out "$here/images/conformance.tar"
	echo "$sum" >"$here/images/made"
fi
[ "${BUILD:-}" != only ] || exit 0
exec "$here/conformance" run -dist "$here" -program "$DIST/nodeless" -list "$source/test/conformance/testdata/conformance.yaml" \
	-state "${STATE:-$here/state}" -group "${GROUP:-all}" -sizing "${SIZING:-native}" "$@"
