#!/bin/sh
# Builds the product and measures it; prints the lines `bench NAME VALUE UNIT` that docs/SPECIFICATION.md names.
# Usage: scripts/bench.sh [-quick] [-only start|pods|hpa|writes|admission|growth] [-profiles FOLDER] [-- FLAG-OF-THE-SERVER...]
# GOGC, GOMEMLIMIT and GODEBUG go to the server. Run it on a quiet machine. It takes some 25 minutes under emulation.
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/deps.sh bench
scripts/build.sh
go build -ldflags '-s -w' -o "$DIST/bench" ./tests/bench
go build -ldflags '-s -w' -o "$DIST/containerd-shim-runc-v2" github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
exec "$DIST/bench" -dist "$DIST" "$@"
