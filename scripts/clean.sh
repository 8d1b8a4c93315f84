#!/bin/sh
# Removes everything that was built here, fetched packages included. An installed nodeless is removed by
# `nodeless uninstall`.
set -eu
cd "$(dirname "$0")/.."
rm -rf dist cmd/kata-shim/vendor
