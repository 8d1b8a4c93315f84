package meter

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// Instant is a moment on a host, by both of its clocks.
type Instant struct {
	Wall   time.Time
	BootID string        // of the boot that the host is in
	Boot   time.Duration // since then
}

// Clock gives the present.
type Clock func() Instant

// SystemClock is this host's.
func SystemClock() (Clock, error) {
	id, err := sandboxrecord.BootID(os.DirFS("/proc"))
	if err != nil {
		return nil, err
	}
	if _, err := bootTime(); err != nil {
		return nil, err
	}
	return func() Instant {
		boot, _ := bootTime() // it worked before
		return Instant{Wall: time.Now(), BootID: id, Boot: boot}
	}, nil
}

func bootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the time since the boot: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
