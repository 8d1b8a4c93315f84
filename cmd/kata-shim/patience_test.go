package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimitStandsStillWhileTheGuestWaitsForACPU: a guest on a busy host is waited for. One that does nothing, or runs in circles, has as
// long as ever.
func TestLimitStandsStillWhileTheGuestWaitsForACPU(t *testing.T) {
	const limit = time.Minute
	for _, tt := range []struct {
		name  string
		cpu   float64 // of a core
		wants bool
		gone  error
		least time.Duration
		most  time.Duration
	}{
		{name: "it does nothing", least: limit, most: limit + time.Second},
		{name: "it idles", cpu: 0.03, least: limit, most: limit + time.Second},
		{name: "it is not there", gone: errors.New("no such socket"), least: limit, most: limit + time.Second},
		{name: "it waits for a CPU", cpu: 0.01, wants: true, least: mostPatience * limit, most: mostPatience * limit},
		{name: "it has half of a CPU", cpu: 0.5, wants: true, least: 2*limit - 2*time.Second, most: 2*limit + time.Second},
		{name: "it runs in circles", cpu: 1, wants: true, least: limit - time.Second, most: limit + time.Second},
		{name: "it runs in circles on four CPUs", cpu: 4, wants: true, least: limit - time.Second, most: limit + time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				p := patience{effort: func(context.Context) (time.Duration, bool, error) {
					return time.Duration(tt.cpu * float64(time.Since(begun))), tt.wants, tt.gone
				}}
				ctx, cancel := p.around(t.Context(), limit)
				defer cancel()
				<-ctx.Done()
				if took := time.Since(begun); took < tt.least || took > tt.most {
					t.Errorf("given up after %v, want %v to %v", took, tt.least, tt.most)
				}
				if ctx.Err() != context.DeadlineExceeded { // compared by its text in Kata
					t.Errorf("the request ended with %v", ctx.Err())
				}
			})
		})
	}
}

// TestAnsweredRequestIsOver: who is done, or is told to stop, has no limit any more.
func TestAnsweredRequestIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		p := patience{effort: func(context.Context) (time.Duration, bool, error) { asked++; return 0, false, nil }}
		ctx, cancel := p.around(t.Context(), time.Minute)
		cancel()
		time.Sleep(time.Hour)
		if asked > 0 || ctx.Err() != context.Canceled {
			t.Errorf("asked %d times; the request ended with %v", asked, ctx.Err())
		}
	})
}
