package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// mostBurn bounds what one request of /burn costs.
const mostBurn = time.Second

// burn uses a time of a CPU for its answer, as a service does that computes something: the time that the kernel counts, so that a request
// takes longer where the CPU is shared or limited, and costs the same.
func burn(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.ParseInt(r.URL.Query().Get("ms"), 10, 64)
	if err != nil || ms < 1 || ms > mostBurn.Milliseconds() {
		http.Error(w, fmt.Sprintf("want /burn?ms=1..%d", mostBurn.Milliseconds()), http.StatusBadRequest)
		return
	}
	used, err := spin(r.Context(), time.Duration(ms)*time.Millisecond)
	if r.Context().Err() != nil {
		return // nobody waits for the answer
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	fmt.Fprintf(w, "pod %s used %d ms\n", name, used.Milliseconds())
}

// spin uses a time of a CPU, or less if ctx ends, and returns what it has used.
func spin(ctx context.Context, want time.Duration) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	for n := uint64(1); ; {
		for range 20000 {
			n = n*6364136223846793005 + 1442695040888963407
		}
		now, err := threadTime()
		if err == nil && n == 0 {
			err = errors.New("a generator of period 2^64 has come to 0") // it uses n
		}
		if err == nil {
			err = ctx.Err()
		}
		if used := now - began; err != nil || used >= want {
			return used, err
		}
	}
}

// threadTime is the time that this thread has had of CPUs.
func threadTime() (time.Duration, error) {
	var use syscall.Rusage
	const ofThread = 1 // RUSAGE_THREAD
	if err := syscall.Getrusage(ofThread, &use); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano()), nil
}

// mostLimit keeps products of two divisors within 64 bits, and a part within hours.
const mostLimit = 1 << 32

// primes counts the primes in one of several equal parts of the numbers below a limit: `primes 3 10 2000000` those of the fourth of ten.
func primes(args []string) error {
	usage := fmt.Errorf("usage: hello primes PART PARTS LIMIT, with PART from 0 and LIMIT up to %d", int64(mostLimit))
	if len(args) != 3 {
		return usage
	}
	var n [3]int64
	for i, arg := range args {
		var err error
		if n[i], err = strconv.ParseInt(arg, 10, 64); err != nil {
			return usage
		}
	}
	part, parts, limit := n[0], n[1], n[2]
	if parts < 1 || part < 0 || part >= parts || limit < 0 || limit > mostLimit || parts > mostLimit {
		return usage
	}
	from, to := limit*part/parts, limit*(part+1)/parts
	fmt.Printf("part %d: %d primes from %d to %d\n", part, countPrimes(from, to), from, to-1)
	return nil
}

// countPrimes counts those from a number to before another, by trial division: slow on purpose.
func countPrimes(from, to int64) int {
	count := 0
	for n := from; n < to; n++ {
		if isPrime(n) {
			count++
		}
	}
	return count
}

func isPrime(n int64) bool {
	if n < 4 {
		return n > 1
	}
	if n%2 == 0 {
		return false
	}
	for d := int64(3); d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}
