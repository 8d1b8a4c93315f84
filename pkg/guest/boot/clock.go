package boot

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SetClock sets the wall clock.
func SetClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// slewLimit is the most that is made up for by running faster or slower, half a millisecond a second.
const slewLimit = 50 * time.Millisecond

// Clock is the wall clock, which the host keeps right.
type Clock struct{}

// Now is the time.
func (Clock) Now() time.Time { return time.Now() }

// Adjust moves the clock by d: at once, or little by little when little is wrong, so that it does not
// go backwards.
func (Clock) Adjust(d time.Duration) error {
	if d.Abs() > slewLimit {
		return SetClock(time.Now().Add(d))
	}
	if _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: d.Microseconds()}); err != nil {
		return fmt.Errorf("adjust clock: %w", err)
	}
	return nil
}

const (
	rndAddEntropy = 0x40085203 // RNDADDENTROPY
	rndReseed     = 0x5207     // RNDRESEEDCRNG
)

// AddEntropy mixes random bytes from the host into the kernel's pool, counts them as such and makes the
// generator use them at once: a VM restored from a template must not repeat its siblings' numbers.
func AddEntropy(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	defer f.Close()
	pool := binary.NativeEndian.AppendUint32(nil, uint32(len(data)*8))
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(data)))
	pool = append(pool, data...)
	if err := ioctl(f, rndAddEntropy, pool); err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	if err := ioctl(f, rndReseed, nil); err != nil {
		return fmt.Errorf("reseed random generator: %w", err)
	}
	return nil
}
