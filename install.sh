#!/bin/sh
# Installs nodeless, or brings an installed one up to date. Running it again changes nothing when nothing has changed.
#
#   curl -sfL <URL of this file> | sh -
#   curl -sfL <URL of this file> | sh -s - server --node-name edge-1
#   ./install.sh                     without a network: with the files of a release, or nodeless and nodeless.sha256, beside it
#
# The program is checked before it is put in place. Where a public key is known (pinned below in a release, or given), SHA256SUMS and
# SHA256SUMS.sig beside the program must be signed with it, which takes OpenSSL 3; nothing else is installed. Where none is known, only the
# checksum from the same place is compared, and this script says so. A script that was fetched from where the program is can be changed
# together with it: get the key another way. See docs/release.md.
#
# What may be set:
#   NODELESS_EXEC            command of the service, when no arguments are given (default: server)
#   NODELESS_VERSION         release to fetch (default: the latest)
#   NODELESS_URL             where to fetch the program, in place of the release; its checksum is at the same URL + .sha256
#   NODELESS_INSTALL_FILE    a local file to install, in place of fetching; its checksum is in the same name + .sha256
#   NODELESS_SHA256          the checksum, in place of the .sha256 file
#   NODELESS_PUBLIC_KEY      the public key of the releases, in place of the pinned one; none: no signature is asked for
#   NODELESS_SKIP_DOWNLOAD   true: keep the program that is installed
#   NODELESS_SKIP_ENABLE     true: do not start the service at boot, and not now
#   NODELESS_SKIP_START      true: do not start the service now
#   NODELESS_SYMLINK         skip (default), create (kubectl, ctr and crictl, where no such command exists) or force
#   NODELESS_BIN_DIR         folder of the program (default: /usr/local/bin)
#   NODELESS_SYSTEMD_DIR     folder of the service (default: /etc/systemd/system)
#   NODELESS_CONFIG_DIR      folder that records what was installed (default: /etc/nodeless)
# Every other NODELESS_ variable is a setting of the server; it goes into the service's environment file (mode 0600).
set -eu
umask 022

NAME=nodeless
RELEASES=https://github.com/nodeless/nodeless/releases
ASSET=nodeless-linux-amd64 # the program's name in a release
PINNED_KEY= # public key of the releases, written here by scripts/release.sh
NEED_KB=307200 # room for the new program beside the old one

BIN_DIR=${NODELESS_BIN_DIR:-/usr/local/bin}
SYSTEMD_DIR=${NODELESS_SYSTEMD_DIR:-/etc/systemd/system}
CONFIG_DIR=${NODELESS_CONFIG_DIR:-/etc/nodeless}
BIN=$BIN_DIR/$NAME
UNIT=$SYSTEMD_DIR/$NAME.service
ENV_FILE=$UNIT.env
RECORD=$CONFIG_DIR/installed
SYMLINK=${NODELESS_SYMLINK:-skip}

PUBLIC_KEY=${NODELESS_PUBLIC_KEY:-$PINNED_KEY}
[ "$PUBLIC_KEY" != none ] || PUBLIC_KEY=

STAGED= # temporary files, removed however this ends
CHANGED=false

info() { printf '%s\n' "$NAME: $*"; }

die() {
	printf 'error: %s\n' "$1" >&2
	[ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2
	exit 1
}

cleanup() {
	# The names come from mktemp in folders that were checked to hold no white space.
	# shellcheck disable=SC2086
	[ -z "$STAGED" ] || rm -f $STAGED
}

have() { command -v "$1" >/dev/null 2>&1; }

# stage FOLDER: makes a temporary file in the folder where it will be renamed, and sets TEMP.
stage() {
	TEMP=$(mktemp "$1/.$NAME.XXXXXX") || die "cannot write to $1" "run as root on a writable file system"
	STAGED="$STAGED $TEMP"
}

check_host() {
	[ "$(uname -s)" = Linux ] || die "this is $(uname -s), not Linux" "nodeless runs on Linux only"
	case $(uname -m) in
	x86_64 | amd64) ;;
	*) die "this machine is a $(uname -m)" "nodeless runs on x86_64 only" ;;
	esac
	[ "$(id -u)" = 0 ] || die "uid $(id -u) is not root" "run it as root: curl … | sudo sh -"
	have sha256sum || die "sha256sum is missing" "install coreutils"
	for dir in "$BIN_DIR" "$SYSTEMD_DIR" "$CONFIG_DIR"; do
		case $dir in
		*[[:space:]]*) die "folder \"$dir\" has white space in its name" "choose another one" ;;
		/*) ;;
		*) die "folder \"$dir\" is not an absolute path" "begin it with /" ;;
		esac
	done
	case $SYMLINK in
	skip | create | force) ;;
	*) die "NODELESS_SYMLINK is \"$SYMLINK\"" "choose skip, create or force" ;;
	esac
	mkdir -p "$BIN_DIR" "$CONFIG_DIR" || die "cannot make $BIN_DIR" "run as root on a writable file system"
	free=$(df -Pk "$BIN_DIR" | awk 'NR == 2 { print $4 }')
	[ "${free:-0}" -ge "$NEED_KB" ] || die "$BIN_DIR has $((${free:-0} / 1024)) MiB free" "free $((NEED_KB / 1024)) MiB, or choose another folder with NODELESS_BIN_DIR"
}

# fetch URL FILE
fetch() {
	if have curl; then
		curl -fsSL --connect-timeout 20 -o "$2" "$1"
	elif have wget; then
		wget -q -T 20 -O "$2" "$1"
	else
		die "neither curl nor wget is there" "install one, or give a local file with NODELESS_INSTALL_FILE"
	fi
}

# beside: the program in the folder of this script, or built below it, if the script is a file and has one.
beside() {
	case $0 in
	*install.sh)
		dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
		for program in "$dir/$NAME" "$dir/$ASSET" "$dir/dist/$NAME"; do
			if [ -f "$program" ]; then
				printf '%s\n' "$program"
				return 0
			fi
		done
		;;
	esac
}

# sibling NAME: a file from where the program comes from (a folder or a URL), as TEMP.
sibling() {
	stage "$BIN_DIR"
	if [ -n "$file" ]; then
		cp "$(dirname -- "$file")/$1" "$TEMP" 2>/dev/null || return 1
	else
		fetch "${url%/*}/$1" "$TEMP" || return 1
	fi
}

# signed_with KEY FILE SIGNATURE: whether the signature, in base64, is that of the file.
signed_with() {
	stage "$BIN_DIR"
	pem=$TEMP
	stage "$BIN_DIR"
	raw=$TEMP
	# What stands before the 32 bytes of each ed25519 key in its usual form is 12 bytes, so base64 goes on without a seam.
	printf -- '-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA%s\n-----END PUBLIC KEY-----\n' "$1" >"$pem"
	openssl base64 -d -A -in "$3" -out "$raw" 2>/dev/null &&
		openssl pkeyutl -verify -pubin -inkey "$pem" -rawin -in "$2" -sigfile "$raw" >/dev/null 2>&1
}

# can_verify: whether the tool here knows a right signature when it sees one: the second example of RFC 8032.
can_verify() {
	have openssl || return 1
	stage "$BIN_DIR"
	text=$TEMP
	printf r >"$text"
	stage "$BIN_DIR"
	printf '%s' kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA== >"$TEMP"
	signed_with PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw= "$text" "$TEMP"
}

# signed_sum: sets WANT to the checksum of the program that the release's key has signed.
signed_sum() {
	case $PUBLIC_KEY in
	*[!A-Za-z0-9+/=]*) die "\"$PUBLIC_KEY\" is no public key" "a key is 44 letters of base64 in one line" ;;
	esac
	[ "${#PUBLIC_KEY}" -eq 44 ] || die "\"$PUBLIC_KEY\" is no public key" "a key is 44 letters of base64 in one line"
	can_verify || die "a public key is given, and nothing here can verify with it" \
		"install OpenSSL 3 (apt-get install openssl); or verify elsewhere, and give NODELESS_SHA256 and NODELESS_PUBLIC_KEY=none"
	sibling SHA256SUMS || die "there is no SHA256SUMS beside the program" "the release is not signed: get it from its maker, or set NODELESS_PUBLIC_KEY=none"
	sums=$TEMP
	sibling SHA256SUMS.sig || die "there is no SHA256SUMS.sig beside the program" "the release is not signed: get it from its maker, or set NODELESS_PUBLIC_KEY=none"
	signed_with "$PUBLIC_KEY" "$sums" "$TEMP" ||
		die "wrong signature: SHA256SUMS is not signed with the key $PUBLIC_KEY" "do not use these files; nothing was installed"
	release=$(awk 'NR == 1 && $1 == "#" && $2 == "nodeless" { print $3 }' "$sums")
	if [ -n "${NODELESS_VERSION:-}" ] && [ "$release" != "$NODELESS_VERSION" ]; then
		die "the signed release is \"$release\", not $NODELESS_VERSION" "do not use these files; nothing was installed"
	fi
	WANT=$(awk -v name="$ASSET" '$2 == name { print $1 }' "$sums")
	[ -n "$WANT" ] || die "SHA256SUMS names no $ASSET" "get the release from its maker"
}

# unsigned_sum: sets WANT to the checksum that was given or lies beside the program.
unsigned_sum() {
	WANT=${NODELESS_SHA256:-}
	if [ -n "$WANT" ]; then
		info "signature not verified; the checksum is the one given"
		return 0
	fi
	info "not verified: no public key is known, so the checksum from the same place is all there is (NODELESS_PUBLIC_KEY)"
	if [ -n "$file" ]; then
		[ -f "$file.sha256" ] || die "no checksum for $file" "put $file.sha256 beside it, or set NODELESS_SHA256"
		WANT=$(cat "$file.sha256")
	else
		stage "$BIN_DIR"
		fetch "$url.sha256" "$TEMP" || die "cannot fetch the checksum $url.sha256" "set NODELESS_SHA256"
		WANT=$(cat "$TEMP")
	fi
}

# must_be SUM: ends unless NEW has this checksum.
must_be() {
	want=$(printf '%s' "$1" | awk 'NR == 1 { print tolower($1) }')
	got=$(sha256sum "$NEW" | awk '{ print $1 }')
	[ "$got" = "$want" ] || die "wrong checksum: sha256 is $got, not $want" "fetch the file again; nothing was installed"
}

# obtain: sets NEW to a verified copy of the program in BIN_DIR, under a temporary name.
obtain() {
	file=${NODELESS_INSTALL_FILE:-}
	url=${NODELESS_URL:-}
	if [ -z "$file" ] && [ -z "$url" ] && [ -z "${NODELESS_VERSION:-}" ]; then
		file=$(beside)
	fi
	stage "$BIN_DIR"
	NEW=$TEMP
	if [ -n "$file" ]; then
		[ -f "$file" ] || die "file $file is not there" "name the program with NODELESS_INSTALL_FILE"
		info "installing from $file"
		cp "$file" "$NEW" || die "cannot copy $file to $BIN_DIR"
	else
		if [ -z "$url" ]; then
			url=$RELEASES/latest/download/$ASSET
			[ -z "${NODELESS_VERSION:-}" ] || url=$RELEASES/download/$NODELESS_VERSION/$ASSET
		fi
		info "fetching $url"
		fetch "$url" "$NEW" || die "cannot fetch $url" "look at the address and the network, or install a local file with NODELESS_INSTALL_FILE"
	fi
	if [ -n "$PUBLIC_KEY" ]; then
		signed_sum
		[ -z "${NODELESS_SHA256:-}" ] || must_be "$NODELESS_SHA256"
	else
		unsigned_sum
	fi
	must_be "$WANT"
	[ -z "$PUBLIC_KEY" ] || info "verified: ${release:-the release} is signed with the key $PUBLIC_KEY"
	chmod 755 "$NEW"
}

# quote TEXT: for a word of ExecStart.
quote() { printf '"%s"' "$(printf '%s' "$1" | sed -e 's/[\\"]/\\&/g' -e 's/\$/$$/g' -e 's/%/%%/g')"; }

write_unit() {
	command=
	for word in "$@"; do command="$command $(quote "$word")"; done
	cat <<UNIT
[Unit]
Description=nodeless: serverless Kubernetes, each Pod its own microVM
Documentation=https://github.com/nodeless/nodeless
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-$ENV_FILE
ExecStart=$BIN$command
# Pods live on while the server restarts: only the server itself is stopped.
KillMode=process
Delegate=yes
Restart=always
RestartSec=5s
TimeoutStartSec=0
TimeoutStopSec=60s
LimitNOFILE=1048576
LimitNPROC=infinity
# Of the server alone: containerd and each Pod have cgroups of their own.
MemoryMax=50%
OOMPolicy=continue
# A dump of the server would hold keys and Secrets. Nothing that it starts gains rights by a setuid file.
# Protect…= and Private…= are left out: each gives the server a mount namespace of its own, which ends with it, and Pods live on.
LimitCORE=0
NoNewPrivileges=yes
TasksMax=infinity
UNIT
}

# write_env: the settings of the server that this script was started with.
write_env() {
	env | sed -n 's/^\(NODELESS_[A-Z0-9_]*\)=.*/\1/p' | sort -u | while read -r name; do
		case $name in
		NODELESS_EXEC | NODELESS_VERSION | NODELESS_URL | NODELESS_INSTALL_FILE | NODELESS_SHA256 | NODELESS_PUBLIC_KEY | NODELESS_SKIP_* | NODELESS_SYMLINK) continue ;;
		NODELESS_BIN_DIR | NODELESS_SYSTEMD_DIR | NODELESS_CONFIG_DIR | NODELESS_LAUNCHER | NODELESS_BUNDLE) continue ;;
		esac
		eval "value=\${$name-}"
		# shellcheck disable=SC2154 # set by eval
		printf '%s="%s"\n' "$name" "$(printf '%s' "$value" | tr '\n' ' ' | sed 's/[\\"`$]/\\&/g')"
	done
}

# replace TEMP FILE MODE: renames TEMP to FILE unless FILE is the same already.
replace() {
	chmod "$3" "$1"
	if [ -f "$2" ] && cmp -s "$1" "$2"; then
		chmod "$3" "$2"
		return 0
	fi
	mv -f "$1" "$2"
	CHANGED=true
	info "wrote $2"
}

# link_tools RECORD: makes the links that were asked for, and records those that are ours.
link_tools() {
	for tool in kubectl crictl ctr; do
		link=$BIN_DIR/$tool
		if [ -L "$link" ] && [ "$(readlink "$link")" = "$NAME" ]; then
			printf '%s\n' "$link" >>"$1"
			continue
		fi
		[ "$SYMLINK" != skip ] || continue
		if [ "$SYMLINK" = create ] && { [ -e "$link" ] || have "$tool"; }; then
			info "left $tool alone: there is one already"
			continue
		fi
		ln -sfn "$NAME" "$link"
		printf '%s\n' "$link" >>"$1"
		info "linked $link"
	done
}

start_service() {
	running=false # whether systemd is the init of this machine; in a chroot or an image build only its files are there
	if have systemctl && [ "$(systemctl is-system-running 2>/dev/null)" != offline ]; then
		running=true
		systemctl daemon-reload || die "systemctl daemon-reload failed" "look at journalctl -xe"
	fi
	if have systemctl && [ "${NODELESS_SKIP_ENABLE:-}" != true ]; then
		systemctl enable "$NAME" >/dev/null 2>&1 || die "systemctl enable $NAME failed" "look at systemctl status $NAME"
	fi
	if [ "$running" = false ]; then
		info "systemd does not run here; start the server with:"
		info "  $BIN $*"
		return 0
	fi
	if [ "${NODELESS_SKIP_ENABLE:-}" = true ]; then
		return 0
	fi
	if [ "${NODELESS_SKIP_START:-}" = true ]; then
		return 0
	fi
	if [ "$CHANGED" = false ] && systemctl is-active --quiet "$NAME"; then
		info "nothing has changed; the service runs on"
		return 0
	fi
	info "starting the service"
	systemctl restart "$NAME" || die "the service does not start" "look at journalctl -u $NAME, and at $BIN check; where there is no KVM, NODELESS_ACCEL=tcg emulates"
	info "try: $BIN kubectl get nodes"
}

main() {
	check_host
	if [ $# -eq 0 ] && [ -n "${NODELESS_EXEC:-}" ]; then
		# shellcheck disable=SC2086 # words are wanted
		set -- $NODELESS_EXEC
	fi
	case ${1:-} in
	'' | -*) set -- server "$@" ;;
	esac

	# First everything is made and checked under temporary names; what follows is only renaming.
	trap cleanup EXIT
	trap 'exit 130' INT TERM HUP
	NEW=
	if [ "${NODELESS_SKIP_DOWNLOAD:-}" = true ]; then
		[ -x "$BIN" ] || die "$BIN is not there" "leave NODELESS_SKIP_DOWNLOAD out"
	else
		obtain
	fi
	stage "$CONFIG_DIR"
	record=$TEMP
	printf '%s\n' "$BIN" >"$record"
	unit=
	if have systemctl; then
		mkdir -p "$SYSTEMD_DIR"
		stage "$SYSTEMD_DIR"
		unit=$TEMP
		write_unit "$@" >"$unit"
		stage "$SYSTEMD_DIR"
		settings=$TEMP
		chmod 600 "$settings"
		write_env >"$settings"
		printf '%s\n%s\n' "$UNIT" "$ENV_FILE" >>"$record"
	fi

	[ -z "$NEW" ] || replace "$NEW" "$BIN" 755
	if [ -n "$unit" ]; then
		replace "$settings" "$ENV_FILE" 600
		replace "$unit" "$UNIT" 644
	fi
	link_tools "$record"
	chmod 644 "$record"
	mv -f "$record" "$RECORD"
	start_service "$@"
	info "installed; \`$BIN uninstall\` removes it again"
}

main "$@"
