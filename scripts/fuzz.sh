#!/bin/sh
# Searches for inputs that break what a hostile Pod, guest or image can reach: every fuzz target, one after the other.
# Usage: [FUZZTIME=1m] [TARGET=FuzzHTTP|pkg/vmm|…] [FUZZWORKERS=1] scripts/fuzz.sh [list]
# TARGET is a part of "package Target"; without it all run. What breaks one is written below testdata/fuzz of its package:
# fix the cause and commit the file, it is a test from then on.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
FUZZTIME=${FUZZTIME:-1m}
FUZZWORKERS=${FUZZWORKERS:-1}

# Lines of "package Target".
targets=$(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' cmd pkg tests |
	sed 's|^\(.*\)/[^/]*:func \(.*\)|./\1 \2|' | sort | grep -- "${TARGET:-.}") || {
	echo "no fuzz target has ${TARGET:-} in its name; scripts/fuzz.sh list shows all" >&2
	exit 2
}
if [ "${1:-}" = list ]; then
	echo "$targets"
	exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
broken=0
while read -r package target; do
	if nice -n 19 go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 30x -parallel "$FUZZWORKERS" "$package" >"$log" 2>&1; then
		verdict=ok
	else
		verdict=BROKEN
		broken=$((broken + 1))
		grep -v '^fuzz: ' "$log" || true
	fi
	echo "$verdict $package $target $(grep '^fuzz: elapsed' "$log" | tail -n 1 | sed 's/^fuzz: //')"
done <<LIST
$targets
LIST
[ "$broken" = 0 ] || {
	echo "$broken broken" >&2
	exit 1
}
