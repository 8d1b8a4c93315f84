#!/bin/sh
# Builds the product and passes its tests, the ones with real microVMs included.
# Usage: scripts/test.sh [unit|vm|all]   (default all)
# The last line counts: "N passed, N failed, N skipped".
set -eu
cd "$(dirname "$0")/.."
what=${1:-all}
. scripts/env.sh
scripts/deps.sh test
[ "$what" = unit ] || scripts/build.sh

results=$DIST/test
rm -rf "$results"
mkdir -p "$results"
go build -o "$results/summary" ./tests/summary
NODELESS_ATTACKS=$results/attacks.jsonl
export NODELESS_ATTACKS
status=0
lint=

# stage NAME GO-TEST-ARGUMENTS...: one run of go test, its verdicts printed as it ends.
# vet has a stage of its own: the part of it that go test runs would look at every dependency again.
# Linking a test that carries Kubernetes takes gigabytes, so stages of such packages run one at a time (-p 1).
stage() {
	name=$1
	shift
	echo "== $name"
	go test -json -vet=off -ldflags '-s -w' "$@" >"$results/$name.json" 2>&1 || status=1
	"$results/summary" "$results/$name.json" || status=1
}

# Packages that carry Kubernetes or need the built product have stages of their own.
heavy='/pkg/server|/pkg/worker|/pkg/cli$|/cmd/nodeless$|/pkg/guest/guesttest|/tests/(vm|machine|attacks|script|robustness)'
light="$(go list ./... | grep -vE "$heavy") github.com/nodeless/nodeless/pkg/contract/..." # which is a module of its own
driving=$(go list ./pkg/guest/guesttest/... ./tests/script/... ./tests/vm/... ./tests/machine/... ./tests/attacks/... ./tests/robustness/...)
carrying=$(go list ./... | grep -E '/pkg/server|/pkg/worker|/pkg/cli$|/cmd/nodeless$')

echo "== vet and shellcheck"
# shellcheck disable=SC2086 # a list of packages
go vet $light $driving || lint=vet
shellcheck -x scripts/*.sh tests/machine/*.sh install.sh .ci/run || lint="$lint shellcheck"

# shellcheck disable=SC2086
stage unit -timeout 10m $light
(cd cmd/kata-shim && "$OLDPWD/scripts/build-shim.sh" --test >"$results/shim.json" 2>&1) || status=1
"$results/summary" "$results/shim.json" || status=1

if [ "$what" != unit ]; then
	# shellcheck disable=SC2086
	stage components -p 1 -timeout 20m $carrying
	stage script -p 1 -timeout 10m ./tests/script/...
	NODELESS_GUEST_VM=1 stage guest -p 1 -exec 'unshare -n -m -p --fork --mount-proc' -timeout 20m ./pkg/guest/guesttest/...
	stage vm -p 1 -timeout 50m ./tests/vm/...
	# Conformance mostly waits: what needs few Pods runs beside it. Group api and a few of the others; all are scripts/conformance.sh.
	GROUP=api STATE=$results/conformance scripts/conformance.sh -smoke -procs 4 -json "$results/conformance.json" >"$results/conformance.log" 2>&1 &
	conformance=$!
	stage attacks -p 1 -timeout 20m ./tests/attacks/...              # the fast ones; all are scripts/attacks.sh
	stage robustness -p 1 -short -timeout 20m ./tests/robustness/... # the long variant is scripts/robustness.sh
	echo "== conformance"
	wait "$conformance" || status=1
	tail -n 1 "$results/conformance.log"
	"$results/summary" "$results/conformance.json" || status=1
fi

echo "== attacks among them"
go run ./tests/attack/count -partial "$NODELESS_ATTACKS" || status=1

echo "== all"
if [ -n "$lint" ]; then
	echo "FAIL $lint: what it found stands near the top" # it is no test, and the counts do not have it
	status=1
fi
"$results/summary" -final "$results"/*.json || status=1
exit "$status"
