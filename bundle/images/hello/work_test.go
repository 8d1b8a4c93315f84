package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestBurnUsesWhatItIsAskedFor(t *testing.T) {
	for _, want := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond} {
		used, err := spin(t.Context(), want)
		if err != nil || used < want || used > want+50*time.Millisecond {
			t.Errorf("spin(%s) used %s, %v", want, used, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if used, err := spin(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("spin for a client that is gone used %s, %v", used, err)
	}
}

func TestBurnIsBounded(t *testing.T) {
	for query, want := range map[string]int{
		"ms=1": 200, "ms=5": 200, "": 400, "ms=0": 400, "ms=-1": 400, "ms=1001": 400, "ms=99999999999999999999": 400, "ms=1.5": 400,
	} {
		w := httptest.NewRecorder()
		burn(w, httptest.NewRequest(http.MethodGet, "/burn?"+query, nil))
		if w.Code != want {
			t.Errorf("/burn?%s: %d %s, want %d", query, w.Code, w.Body, want)
		}
	}
}

func TestPrimes(t *testing.T) {
	for _, tt := range []struct {
		from, to int64
		want     int
	}{{0, 0, 0}, {0, 2, 0}, {0, 3, 1}, {0, 30, 10}, {25, 29, 0}, {0, 100000, 9592}} {
		if got := countPrimes(tt.from, tt.to); got != tt.want {
			t.Errorf("primes from %d to before %d: %d, want %d", tt.from, tt.to, got, tt.want)
		}
	}
	sum := 0
	for i := range int64(7) {
		sum += countPrimes(1000*i/7, 1000*(i+1)/7)
	}
	if sum != 168 {
		t.Errorf("seven parts of the numbers below 1000 have %d primes, want 168", sum)
	}
	for _, args := range []string{"", "0 10", "10 10 100", "-1 10 100", "0 0 100", "0 1 4294967297", "a 1 2", "0 1 2 3"} {
		if err := primes(strings.Fields(args)); err == nil {
			t.Errorf("primes %s: no error", args)
		}
	}
}
