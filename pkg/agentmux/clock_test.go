package agentmux

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// fakeClock is the host's clock and an offset.
type fakeClock struct {
	mu     sync.Mutex
	ahead  time.Duration // guarded by mu
	broken bool
}

func (f *fakeClock) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.ahead)
}

func (f *fakeClock) Adjust(d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return errors.New("no such right")
	}
	f.ahead += d
	return nil
}

func TestSyncClock(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ahead time.Duration
	}{
		{"a clock that is right stays", 0},
		{"a clock behind is moved forward", -3 * time.Hour},
		{"a clock ahead is moved back", 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, clock := new(port), &fakeClock{ahead: tt.ahead}
			l, err := Listen(t.Context(), p, Guest{Clock: clock})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			s, err := Dial(t.Context(), p.attach(), contract.Hello{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			by, err := s.SyncClock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tt.ahead == 0 && by != 0 {
				t.Errorf("a right clock was moved by %s", by)
			}
			if off := clock.Now().Sub(time.Now()).Abs(); off > time.Second {
				t.Errorf("the clock is still off by %s after a move by %s", off, by)
			}
		})
	}
}

func TestSyncClockTellsWhenTheGuestCannot(t *testing.T) {
	p := new(port)
	l, err := Listen(t.Context(), p, Guest{Clock: &fakeClock{ahead: time.Hour, broken: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Dial(t.Context(), p.attach(), contract.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if by, err := s.SyncClock(t.Context()); err == nil {
		t.Errorf("the clock was moved by %s although the guest refused", by)
	}
}

func TestCorrectionBelievesTheQuickestAnswer(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	slow := sample{asked: at, guest: at, heard: at.Add(2 * time.Second)} // seems a second behind
	quick := sample{asked: at, guest: at.Add(time.Millisecond), heard: at.Add(2 * time.Millisecond)}
	if got := correction([]sample{slow, quick}); got != 0 {
		t.Errorf("correction = %s, want none", got)
	}
	quick.guest = at.Add(time.Minute)
	if got, want := correction([]sample{slow, quick}), -time.Minute+time.Millisecond; got != want {
		t.Errorf("correction = %s, want %s", got, want)
	}
}
