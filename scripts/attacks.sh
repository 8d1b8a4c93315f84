#!/bin/sh
# Tries every attack of docs/security.md's list, slow ones included, and counts. Usage: scripts/attacks.sh [text in a test's name]
# Attacks are tests called TestAttack…; those that need Pods are in tests/attacks, the others beside what they attack.
# It goes on where an earlier run was ended when NODELESS_ATTACKS names a file of results: what passed there is not tried again.
# The last line: "attacks: tried=N refused=N contained=N succeeded=0".
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh test
scripts/build.sh
only=${1:-}
NODELESS_ATTACKS=${NODELESS_ATTACKS:-$DIST/attacks.jsonl}
NODELESS_ATTACKS_ALL=1
export NODELESS_ATTACKS NODELESS_ATTACKS_ALL
[ "${NODELESS_ATTACKS#"$DIST"/}" = "$NODELESS_ATTACKS" ] || rm -f "$NODELESS_ATTACKS" "$NODELESS_ATTACKS.passed"
status=0
for package in $(grep -rl --include='*_test.go' '^func TestAttack' pkg tests cmd | xargs -n1 dirname | sort -u | grep -v '^cmd/kata-shim'); do
	echo "== $package"
	# what the packages' own stage of scripts/test.sh sets, so that one link serves both
	if grep -qsFx "$package $only" "$NODELESS_ATTACKS.passed"; then
		echo "passed before"
	elif go test -vet=off -ldflags '-s -w' -count=1 -timeout 1h -run "^TestAttack.*$only" "./$package"; then
		echo "$package $only" >>"$NODELESS_ATTACKS.passed"
	else
		status=1
	fi
done
if [ -n "$only" ]; then
	go run ./tests/attack/count -partial "$NODELESS_ATTACKS" || status=1
else
	# One that was skipped, for want of something on this host, was not tried.
	for name in $(find pkg tests -name '*_test.go' -exec sed -n 's/^func \(TestAttack[A-Za-z0-9]*\)(.*/\1/p' {} + | sort); do
		grep -qF "\"Test\":\"$name/" "$NODELESS_ATTACKS" && continue
		echo "not tried: $name"
		status=1
	done
	go run ./tests/attack/count "$NODELESS_ATTACKS" || status=1
fi
exit "$status"
