#!/bin/sh
# Builds the guest agent, /init of each microVM, as a static binary at $1.
# Needs: Go, a C compiler with static libraries, libseccomp-dev.
set -eu
out=${1:?usage: build-guest.sh OUTPUT}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/.."
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
tags=netgo,osusergo,seccomp,runc_nocriu
CGO_ENABLED=1 GOFLAGS=-mod=mod go build -trimpath -buildvcs=false -tags "$tags" \
	-ldflags "-s -w -linkmode external -extldflags -static -X github.com/nodeless/nodeless/pkg/version.Version=$version" \
	-o "$out" ./cmd/nodeless-guest
