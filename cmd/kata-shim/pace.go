package main

import (
	"io"
	"sync"
	"time"
)

// logSeconds is for how many seconds a Pod may save up what it says.
const logSeconds = 8

// pace bounds what all containers of a Pod say to their logs, in bytes a second. Copying, writing and rotating logs takes CPUs and the
// disk of the host, which all Pods share. What is said too fast is read later. Nothing is lost: who says it waits.
type pace struct {
	rate float64

	mu   sync.Mutex
	left float64   // below 0 it is owed; guarded by mu
	last time.Time // when left was right; guarded by mu
}

func newPace(rate int64) *pace {
	return &pace{rate: float64(rate), left: float64(rate) * logSeconds, last: time.Now()}
}

// take notes that n bytes were said, and tells how long to wait.
func (p *pace) take(n int, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = min(p.left+now.Sub(p.last).Seconds()*p.rate, p.rate*logSeconds) - float64(n)
	p.last = now
	return time.Duration(max(-p.left/p.rate, 0) * float64(time.Second))
}

// around paces what is read from r. There is none where a stream is not wanted.
func (p *pace) around(r io.Reader) io.Reader {
	if r == nil || p.rate <= 0 {
		return r
	}
	return pacedReader{r, p}
}

type pacedReader struct {
	io.Reader
	pace *pace
}

func (r pacedReader) Read(buf []byte) (int, error) {
	n, err := r.Reader.Read(buf)
	if n > 0 {
		time.Sleep(r.pace.take(n, time.Now()))
	}
	return n, err
}
