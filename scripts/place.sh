#!/bin/sh
# Puts a built file into the bundle tree if it differs from what is there: in one step, and never by writing over a
# file that a process may be running. Usage: scripts/place.sh FROM TO [MODE]
set -eu
[ -s "$1" ] || {
	echo "place: $1 is missing or empty" >&2
	exit 1
}
cmp -s "$1" "$2" && exit 0
mkdir -p "$(dirname "$2")"
cp "$1" "$2.tmp"
chmod "${3:-0755}" "$2.tmp"
mv "$2.tmp" "$2"
