#!/bin/sh
# Builds the product and shows it: a cluster in a test host of its own, two Pods in microVMs, one line of result,
# nothing left behind. Usage: scripts/demo.sh [demo|run]; `run` keeps the cluster until Ctrl-C.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh test # curl and nsenter, too
scripts/build.sh
go build -ldflags '-s -w' -o "$DIST/testhost" ./tests/testhost
exec "$DIST/testhost" -program "$DIST/nodeless" "${1:-demo}"
