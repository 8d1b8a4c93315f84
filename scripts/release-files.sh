#!/bin/sh
# Puts the files of a release together from a clone that has been built. Usage: scripts/release-files.sh CLONE OUT
# KEY and PUBLIC_KEY are as in scripts/release.sh.
set -eu
clone=${1:?usage: release-files.sh CLONE OUT} out=${2:?usage: release-files.sh CLONE OUT}
cd "$(dirname "$0")/.."
. scripts/env.sh
program=nodeless-linux-amd64
rm -rf "$out"
mkdir -p "$out"

public=${PUBLIC_KEY:-}
if [ -n "${KEY:-}" ]; then
	public=$(go run ./bundle/sign public "$KEY")
fi
case $public in
*[!A-Za-z0-9+/=]*)
	echo "release-files: the public key is not base64" >&2
	exit 1
	;;
esac

cp "$clone/dist/nodeless" "$out/$program"
chmod 755 "$out/$program"
(cd "$out" && sha256sum "$program" >"$program.sha256")
sed "s|^PINNED_KEY=[^ ]*|PINNED_KEY=$public|" "$clone/install.sh" >"$out/install.sh"
chmod 755 "$out/install.sh"
commit=$(git -C "$clone" rev-parse HEAD)
go run ./bundle/sbom -tree "$clone/dist/bundle" -versions "$clone/bundle/versions.yaml" -program "$out/$program" -commit "$commit" \
	-time "$(git -C "$clone" show -s --format=%ct HEAD)" -out "$out/$program.cdx.json" "$clone/dist/out/nodeless-guest"

# The first line binds the version: an older release that was signed does not pass for this one.
version=$(sed -n 's/^ "version": "\(.*\)",$/\1/p' "$clone/dist/bundle/bundle.json")
[ -n "$version" ] || {
	echo "release-files: the bundle tells no version" >&2
	exit 1
}
(
	cd "$out"
	printf '# nodeless %s %s\n' "$version" "$commit"
	sha256sum install.sh "$program" "$program.cdx.json" "$program.sha256"
) >"$out/SHA256SUMS"
if [ -n "${KEY:-}" ]; then
	go run ./bundle/sign sign "$KEY" "$out/SHA256SUMS"
	go run ./bundle/sign verify "$public" "$out/SHA256SUMS"
fi
