# shellcheck shell=sh
# One set of settings for every script; source it from the root of the repository. Other flags than these
# mean another cold build of Kubernetes, twenty minutes on two cores.
DIST=$PWD/dist
BUNDLE=$DIST/bundle
if ! command -v go >/dev/null 2>&1 && [ -x /usr/local/go/bin/go ]; then
	PATH=$PATH:/usr/local/go/bin
fi
GOFLAGS="-trimpath -buildvcs=false -tags=netgo,osusergo,sqlite_omit_load_extension -mod=readonly"
GONOSUMDB=github.com/cri-o/cri-o # one version of it is missing from the checksum database
CGO_ENABLED=1
export DIST BUNDLE PATH GOFLAGS GONOSUMDB CGO_ENABLED
