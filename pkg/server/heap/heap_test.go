package heap

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// TestMemoryOfWhatIsGone: garbage of a quiet process, which Go would keep, is given back; a process that has little to give is left alone.
func TestMemoryOfWhatIsGone(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name  string
		have  usage
		freed int
	}{
		{"much garbage", usage{live: 100 * mib, idle: 80 * mib}, 1},
		{"little garbage", usage{live: 100 * mib, idle: 40 * mib}, 0},
		{"garbage of a large process", usage{live: 1000 * mib, idle: 400 * mib}, 0},
		{"much garbage of a large process", usage{live: 1000 * mib, idle: 600 * mib}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, freed := New(slog.New(slog.DiscardHandler)), 0
				h.look = func() usage { return tt.have }
				h.free = func() { freed++; tt.have.idle = 0 }
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- h.Run(ctx) }()
				time.Sleep(5 * interval)
				cancel()
				if err := <-ended; err != nil || freed != tt.freed {
					t.Errorf("given back %d times, want %d; Run = %v", freed, tt.freed, err)
				}
			})
		})
	}
}

// TestSoon: what is said to be garbage is given back at once, however little Go knows of; what is said twice meanwhile once.
func TestSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, freed := New(slog.New(slog.DiscardHandler)), 0
		h.look = func() usage { return usage{} }
		h.free = func() { freed++ }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		h.Soon()
		h.Soon()
		go func() { ended <- h.Run(ctx) }()
		synctest.Wait()
		if freed != 1 {
			t.Errorf("given back %d times, want once", freed)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLook: Go's runtime is asked for what it knows, and what is given back is seen to go.
func TestLook(t *testing.T) {
	large := make([]byte, 256<<20)
	for i := 0; i < len(large); i += 4096 {
		large[i] = 1
	}
	held := look()
	large = nil
	h := New(slog.New(slog.DiscardHandler))
	h.free()
	if after := look(); held.live+held.idle < 256<<20 || after.live+after.idle > held.live+held.idle-200<<20 {
		t.Errorf("%+v while 256 MiB are held, %+v afterwards", held, after)
	}
}
