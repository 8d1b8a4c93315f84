package agentmux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// Clock is the guest's wall clock.
type Clock interface {
	Now() time.Time
	// Adjust moves the clock by d.
	Adjust(d time.Duration) error
}

const (
	// clockSamples is how often the guest is asked before the quickest answer is believed.
	clockSamples = 3
	// clockTolerance is how far a guest's clock may be off beyond what the measurement itself may be.
	clockTolerance = 5 * time.Millisecond
	clockTimeout   = 10 * time.Second
)

// serveClock answers each correction, zero for none, with the time after it.
func serveClock(c net.Conn, clock Clock) {
	defer c.Close()
	var b [8]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		if d := time.Duration(binary.BigEndian.Uint64(b[:])); d != 0 && clock.Adjust(d) != nil {
			return // the host sees the end of the stream
		}
		binary.BigEndian.PutUint64(b[:], uint64(clock.Now().UnixNano()))
		if _, err := c.Write(b[:]); err != nil {
			return
		}
	}
}

// sample is one answer of the guest: its time, and when we asked and heard.
type sample struct{ asked, guest, heard time.Time }

// offset is how far the guest is ahead, and by how much that may be wrong.
func (s sample) offset() (ahead, uncertain time.Duration) {
	uncertain = s.heard.Sub(s.asked) / 2
	return s.guest.Sub(s.asked.Add(uncertain)), uncertain
}

// correction is what the guest's clock has to be moved by, judged by the quickest answer.
func correction(samples []sample) time.Duration {
	best := samples[0]
	for _, s := range samples[1:] {
		if s.heard.Sub(s.asked) < best.heard.Sub(best.asked) {
			best = s
		}
	}
	ahead, uncertain := best.offset()
	if ahead.Abs() <= uncertain+clockTolerance {
		return 0
	}
	return -ahead
}

// SyncClock compares the guest's clock with this host's and corrects it; it returns by how much.
func (s *Session) SyncClock(ctx context.Context) (time.Duration, error) {
	c, err := s.OpenPort(contract.ClockPort)
	if err != nil {
		return 0, fmt.Errorf("compare clocks: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	by, err := syncClock(c)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("compare clocks: %w", err), ctx.Err())
	}
	return by, nil
}

func syncClock(c net.Conn) (time.Duration, error) {
	if err := c.SetDeadline(time.Now().Add(clockTimeout)); err != nil {
		return 0, err
	}
	var samples []sample
	for range clockSamples {
		s, err := askClock(c, 0)
		if err != nil {
			return 0, err
		}
		samples = append(samples, s)
	}
	by := correction(samples)
	if by == 0 {
		return 0, nil
	}
	_, err := askClock(c, by)
	return by, err
}

// askClock moves the guest's clock and asks what it shows then. Both our times are wall clock: what is compared
// are wall clocks, and one that is set in between gives a wrong sample, put right by the next round.
func askClock(c net.Conn, by time.Duration) (sample, error) {
	s := sample{asked: time.Now().Round(0)}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(by))
	if _, err := c.Write(b[:]); err != nil {
		return s, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return s, err
	}
	s.guest = time.Unix(0, int64(binary.BigEndian.Uint64(b[:])))
	s.heard = time.Now().Round(0)
	return s, nil
}
