package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Flags splits mount options, as in fstab, into the flags of mount(2) and the data for the file
// system. An option may hold several, separated by commas.
func Flags(options []string) (flags uintptr, data string) {
	var rest []string
	for _, option := range options {
		for o := range strings.SplitSeq(option, ",") {
			set, clear, known := flag(o)
			if !known {
				rest = append(rest, o)
				continue
			}
			flags = flags&^clear | set
		}
	}
	return flags, strings.Join(rest, ",")
}

func flag(option string) (set, clear uintptr, known bool) {
	switch option {
	case "", "defaults", "rw":
		return 0, unix.MS_RDONLY * b2u(option == "rw"), true
	case "ro":
		return unix.MS_RDONLY, 0, true
	case "bind":
		return unix.MS_BIND, 0, true
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, 0, true
	case "nosuid":
		return unix.MS_NOSUID, 0, true
	case "suid":
		return 0, unix.MS_NOSUID, true
	case "nodev":
		return unix.MS_NODEV, 0, true
	case "dev":
		return 0, unix.MS_NODEV, true
	case "noexec":
		return unix.MS_NOEXEC, 0, true
	case "exec":
		return 0, unix.MS_NOEXEC, true
	case "sync":
		return unix.MS_SYNCHRONOUS, 0, true
	case "async":
		return 0, unix.MS_SYNCHRONOUS, true
	case "dirsync":
		return unix.MS_DIRSYNC, 0, true
	case "remount":
		return unix.MS_REMOUNT, 0, true
	case "noatime":
		return unix.MS_NOATIME, 0, true
	case "nodiratime":
		return unix.MS_NODIRATIME, 0, true
	case "relatime":
		return unix.MS_RELATIME, 0, true
	case "strictatime":
		return unix.MS_STRICTATIME, 0, true
	}
	return 0, 0, false
}

func b2u(b bool) uintptr {
	if b {
		return 1
	}
	return 0
}

// take removes key=value from options and returns its value.
func take(options []string, key string) (value string, rest []string) {
	for _, option := range options {
		var kept []string
		for o := range strings.SplitSeq(option, ",") {
			if v, ok := strings.CutPrefix(o, key+"="); ok {
				value = v
				continue
			}
			kept = append(kept, o)
		}
		if len(kept) > 0 {
			rest = append(rest, strings.Join(kept, ","))
		}
	}
	return value, rest
}
