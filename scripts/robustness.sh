#!/bin/sh
# Injects every fault of tests/robustness, or those whose name contains the argument, into clusters of their own.
# Usage: scripts/robustness.sh [fault]   such as "kill" or "powercut"; case does not matter
# One more, "largefiles", writes 2 GB through each kind of volume (tests/vm writes 64 MB), and does to files of each all that
# tests/vm/filematrix knows (NODELESS_FILES_ALL).
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh test
scripts/build.sh
fault=$(echo "${1:-}" | tr '[:upper:]' '[:lower:]')
more=largefiles
status=0
case $more in
*"$fault"*)
	NODELESS_FILES_ALL=1 NODELESS_LARGE_MB=2048 go test -ldflags '-s -w' -vet=off -count=1 -v -timeout 1h -run '^TestPersistentVolumesOutliveTheirPods$' ./tests/vm/ || status=1
	;;
esac
if [ "$fault" != "$more" ]; then
	go test -ldflags '-s -w' -vet=off -count=1 -v -timeout 4h -run "(?i)^TestFault.*$fault" ./tests/robustness/ || status=1
fi
exit "$status"
