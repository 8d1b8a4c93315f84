#!/bin/sh
# Makes a Debian machine for QEMU: base.img (its disk), vmlinux, initrd.zst and the keys for ssh.
# Debian comes from where this machine's own packages come from. It needs root.
# Usage: tests/machine/image.sh 12|13 FOLDER
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
case $1 in
12) suite=bookworm ;;
13) suite=trixie ;;
*)
	echo "image: there is no machine of Debian $1, only of 12 and 13" >&2
	exit 2
	;;
esac
out=$2
[ "$(id -u)" = 0 ] || {
	echo "image: making a Debian machine needs root" >&2
	exit 1
}
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT

packages=systemd-sysv,udev,dbus,kmod,procps,iproute2,openssh-server,linux-image-amd64,pciutils,nftables,curl

# sources: the package sources of this machine that are Debian's, for the suite.
sources() {
	# shellcheck source=/dev/null
	own=$(. /etc/os-release && echo "$VERSION_CODENAME")
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		# Others name the codename inside a longer word.
		grep -Eq "(^|[[:space:]])$own([[:space:]]|$)" "$file" 2>/dev/null || continue
		sed "s/\b$own\b/$suite/g" "$file" >"$work/$(basename "$file")"
		echo "$work/$(basename "$file")"
	done
}

# payload IMAGE: the compressed kernel in a bzImage, by the numbers in its header.
payload() {
	number() { od -An -j "$1" -N "$2" -t "u$2" "$image" | tr -d ' '; }
	image=$1
	start=$((($(number $((0x1f1)) 1) + 1) * 512 + $(number $((0x248)) 4)))
	tail -c "+$((start + 1))" "$image" | head -c "$(($(number $((0x24c)) 4) - 4))" # the last four bytes are its length
}

# unpack FROM TO: by what the file begins with.
unpack() {
	case $(od -An -N 4 -t x1 "$1" | tr -d ' ') in
	fd377a58) xz -dc "$1" >"$2" ;;
	28b52ffd) zstd -qdc "$1" >"$2" ;;
	*) cp "$1" "$2" ;;
	esac
}

# settle TREE: what a machine needs besides packages. It keeps no clock and no timers of its own.
settle() {
	echo machine >"$1/etc/hostname"
	printf '127.0.0.1 localhost machine\n::1 localhost\n' >"$1/etc/hosts"
	printf 'nameserver 10.0.2.3\n' >"$1/etc/resolv.conf" # QEMU's; it answers nothing there
	echo 'LABEL=machine / ext4 noatime 0 0' >"$1/etc/fstab"
	: >"$1/etc/machine-id"
	# QEMU's DHCP names no gateway to a machine that it keeps to itself, and a server has one.
	printf '[Match]\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' >"$1/etc/systemd/network/machine.network"
	printf 'UsePAM no\nUseDNS no\nMaxSessions 100\nMaxStartups 100\n' >"$1/etc/ssh/sshd_config.d/machine.conf"
	home=$1$(chroot "$1" getent passwd root | cut -d: -f6)
	mkdir -p "$1/var/log/journal" "$1/media/product" "$home/.ssh"
	rm -f "$1"/etc/systemd/system/timers.target.wants/* "$1"/etc/systemd/system/multi-user.target.wants/e2scrub* "$1"/etc/ssh/ssh_host_*
	chroot "$1" systemctl -q enable systemd-networkd systemd-networkd-wait-online
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/made/key"
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$1/etc/ssh/ssh_host_ed25519_key"
	cp "$work/made/key.pub" "$home/.ssh/authorized_keys"
	echo "machine $(cat "$1/etc/ssh/ssh_host_ed25519_key.pub")" >"$work/made/known_hosts"
}

# initrd TREE VERSION: busybox, the modules of the disk and of its file system, in the order in which they are to be loaded.
initrd() {
	top=$work/initrd
	mkdir -p "$top/bin" "$top/modules" "$top/dev" "$top/sys" "$top/new"
	cp /bin/busybox "$top/bin/busybox"
	install -m 755 "$here/init" "$top/init"
	for module in crc32c_generic crc32c_intel virtio_pci virtio_blk ext4; do
		chroot "$1" modprobe -S "$2" --show-depends "$module" 2>/dev/null || : # some kernels have the first two built in
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$work/modules"
	while read -r file; do
		name=$(basename "$file" .xz)
		unpack "$1/$file" "$top/modules/$name"
		echo "$name"
	done <"$work/modules" >"$top/modules/order"
	(cd "$top" && find . | busybox cpio -o -H newc 2>/dev/null | zstd -q -19)
}

mkdir "$work/made"
tree=$work/tree
echo "image: Debian $1 ($suite)"
# shellcheck disable=SC2046 # a list of files
mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	"$suite" "$tree" $(sources)
settle "$tree"
version=$(basename "$tree"/lib/modules/*)
payload "$tree/boot/vmlinuz-$version" >"$work/kernel"
unpack "$work/kernel" "$work/made/vmlinux"
initrd "$tree" "$version" >"$work/made/initrd.zst"
rm -rf "${tree:?}"/boot/* "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/*
mkfs.ext4 -q -F -L machine -d "$tree" -E lazy_itable_init=1,lazy_journal_init=1 "$work/made/base.img" 20G
rm -rf "$out"
mv "$work/made" "$out"
