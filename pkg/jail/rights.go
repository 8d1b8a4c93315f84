package jail

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// giveUp makes the calling thread another user with the capabilities that the plan keeps, and forbids it new ones.
func (p Plan) giveUp() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(p.Capabilities, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // a kernel may know fewer
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if len(p.Capabilities) > 0 {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("keep capabilities: %w", err)
		}
	}
	if err := changeUser(p.User); err != nil {
		return err
	}
	if err := p.setCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// changeUser changes user and groups of the calling thread alone. Other threads of the second stage end when it becomes the program.
func changeUser(user int) error {
	id := uintptr(user)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("leave all groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return fmt.Errorf("change to group %d: %w", user, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return fmt.Errorf("change to user %d: %w", user, errno)
	}
	return nil
}

// setCapabilities leaves those that the plan keeps in every set, so that they outlive exec.
func (p Plan) setCapabilities() error {
	var sets [2]unix.CapUserData // 32 capabilities each
	for _, c := range p.Capabilities {
		bit := uint32(1) << (c % 32)
		set := &sets[c/32]
		set.Effective, set.Permitted, set.Inheritable = set.Effective|bit, set.Permitted|bit, set.Inheritable|bit
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&head, &sets[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	for _, c := range p.Capabilities {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	return nil
}
