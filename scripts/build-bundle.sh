#!/bin/sh
# Makes the parts of dist/bundle that are not our own programs: QEMU, virtiofsd, iptables, nft (with wrappers),
# the guest kernel, the scratch disk, crictl. Usage: scripts/build-bundle.sh
set -eu
cd "$(dirname "$0")/.."
. scripts/env.sh
tools=$DIST/tools
mkdir -p "$tools" "$DIST/stamps" "$BUNDLE/bin" "$BUNDLE/aux" "$BUNDLE/guest"
CGO_ENABLED=0 go build -o "$tools/" ./bundle/mktree ./bundle/mkkernel ./bundle/mkinitrd ./bundle/mkmanifest ./bundle/pack

# What comes from Debian is laid out anew when the recipe or its tool changed.
stamp=$(cat bundle/versions.yaml "$tools/mktree" "$tools/mkkernel" | sha256sum)
if [ "$stamp" != "$(cat "$DIST/stamps/tree" 2>/dev/null)" ] || [ ! -s "$BUNDLE/guest/vmlinux" ] || [ ! -s "$DIST/parts-debian.json" ]; then
	rm -f "$DIST/stamps/tree"
	"$tools/mktree" -versions bundle/versions.yaml -work "$DIST" -out "$BUNDLE"
	"$tools/mkkernel" -bzimage "$DIST"/kernel/boot/vmlinuz-* -out "$BUNDLE/guest/vmlinux"
	echo "$stamp" >"$DIST/stamps/tree"
fi

# One small program under the names of the packed ones.
CGO_ENABLED=0 go build -ldflags '-s -w' -o "$DIST/out/nodeless-exec" ./cmd/nodeless-exec
if ! cmp -s "$DIST/out/nodeless-exec" "$BUNDLE/aux/nft"; then
	rm -f "$BUNDLE"/aux/*
	cp "$DIST/out/nodeless-exec" "$BUNDLE/aux/nft"
	for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
		ln "$BUNDLE/aux/nft" "$BUNDLE/aux/$name"
	done
fi

crictl=$(sed -n 's|.*sigs.k8s.io/cri-tools \(v[0-9.]*\).*|\1|p' bundle/tools/go.mod)
(cd bundle/tools && CGO_ENABLED=0 go build -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$crictl" \
	-o "$DIST/out/crictl" sigs.k8s.io/cri-tools/cmd/crictl)
scripts/place.sh "$DIST/out/crictl" "$BUNDLE/bin/crictl"

# The template of a Pod's writable disk: 20 GiB, of which 176 KiB are written. The guest grows it where a Pod asks for more.
scratch=$BUNDLE/guest/scratch.ext4
[ -n "$(find "$scratch" -newer scripts/scratch-disk.sh 2>/dev/null)" ] || scripts/scratch-disk.sh "$scratch" 20G
rm -f "$BUNDLE/guest/scratch-large.ext4" # of an earlier build
