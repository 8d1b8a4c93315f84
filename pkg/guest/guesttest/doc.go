// Package guesttest boots the guest agent in a real microVM and drives it as Kata would. It holds only
// tests; they run when NODELESS_GUEST_VM=1 is set and need QEMU, a guest kernel and an initrd:
//
//	scripts/build-guest.sh init && NODELESS_GUEST_VM=1 NODELESS_GUEST_KERNEL=vmlinux \
//	NODELESS_GUEST_INITRD=initrd go test ./pkg/guest/guesttest
//
// They run QEMU without KVM and touch nothing of the machine outside the test's own directory.
package guesttest
