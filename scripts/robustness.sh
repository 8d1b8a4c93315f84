#!/bin/sh
# Injects every fault of tests/robustness, or those whose name contains the argument, into clusters of their own.
# Usage: scripts/robustness.sh [fault]   such as "kill" or "powercut"; case does not matter
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh test
scripts/build.sh
exec go test -ldflags '-s -w' -count=1 -v -timeout 4h -run "(?i)^TestFault.*${1:-}" ./tests/robustness/
