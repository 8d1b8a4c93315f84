package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TSCKHz finds the rate of the host's time stamp counter and says where it was found. An emulated guest
// sees the same counter, and told its rate it need not measure it at boot.
func TSCKHz() (khz uint64, source string, err error) {
	var errs []error
	for _, try := range []struct {
		source string
		find   func() (uint64, error)
	}{{"perf clock page", perfKHz}, {"kernel log", kmsgKHz}, {"/proc/cpuinfo", cpuinfoKHz}} {
		khz, err := try.find()
		if err == nil && khz >= 100_000 && khz <= 10_000_000 {
			return khz, try.source, nil
		}
		if err == nil {
			err = fmt.Errorf("%d kHz is not plausible", khz)
		}
		errs = append(errs, fmt.Errorf("%s: %w", try.source, err))
	}
	return 0, "", fmt.Errorf("find TSC rate: %w", errors.Join(errs...))
}

// perfKHz reads the factors by which the kernel itself turns the counter into nanoseconds; it publishes
// them in the first page of every perf event.
func perfKHz() (uint64, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: unix.PerfBitDisabled}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("open perf event: %w", err)
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map perf event: %w", err)
	}
	defer unix.Munmap(page) //nolint:errcheck // nothing depends on it
	meta := (*unix.PerfEventMmapPage)(unsafe.Pointer(&page[0]))
	const userTime = 1 << 3 // cap_user_time: the factors are valid
	if meta.Capabilities&userTime == 0 || meta.Time_mult == 0 {
		return 0, errors.New("the kernel's clock does not run on the TSC")
	}
	return multToKHz(meta.Time_mult, meta.Time_shift)
}

// multToKHz inverts nanoseconds = cycles * mult >> shift: kHz = 10^6 * 2^shift / mult.
func multToKHz(mult uint32, shift uint16) (uint64, error) {
	if shift > 43 || mult == 0 {
		return 0, fmt.Errorf("factors %d >> %d are not plausible", mult, shift)
	}
	hi, lo := bits.Mul64(1_000_000, 1<<shift)
	if hi >= uint64(mult) {
		return 0, fmt.Errorf("factors %d >> %d are not plausible", mult, shift)
	}
	khz, rest := bits.Div64(hi, lo, uint64(mult))
	if rest >= uint64(mult)/2 {
		khz++
	}
	return khz, nil
}

// kmsgKHz looks for what the kernel found out at its own boot.
func kmsgKHz() (uint64, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	defer unix.Close(fd)
	var khz uint64
	for buf := make([]byte, 8192); ; {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EPIPE) {
			continue // overwritten while reading
		}
		if err != nil || n == 0 {
			break
		}
		if found := kmsgLine(buf[:n]); found != 0 {
			khz = found // the refined value comes last
		}
	}
	if khz == 0 {
		return 0, errors.New("no line about the TSC")
	}
	return khz, nil
}

// kmsgLine reads "tsc: Detected 2596.124 MHz processor" and "tsc: Refined TSC clocksource calibration:
// 2596.098 MHz".
func kmsgLine(line []byte) uint64 {
	i := bytes.Index(line, []byte("tsc: "))
	if i < 0 {
		return 0
	}
	words := strings.Fields(string(line[i:]))
	for j := 1; j < len(words); j++ {
		if words[j] == "MHz" {
			return mhz(words[j-1])
		}
	}
	return 0
}

// cpuinfoKHz is the last resort: the first CPU's present speed, which is the TSC's in virtual machines.
func cpuinfoKHz() (uint64, error) {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "cpu MHz" {
			return mhz(strings.TrimSpace(value)), nil
		}
	}
	return 0, errors.New("no line about MHz")
}

func mhz(s string) uint64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return uint64(f*1000 + 0.5)
}
