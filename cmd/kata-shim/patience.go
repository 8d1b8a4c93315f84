package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

const (
	// lookInterval is how often it is looked what a guest does that has not answered yet.
	lookInterval = time.Second
	// mostPatience is how many times its limit a request may take, however busy the host is.
	mostPatience = 10
)

// patience is how long the guest is waited for. On a busy host it may get a CPU now and then only; so the limit of a request stands still
// while the guest waits for one. It runs while the guest runs, which may be in circles, and while it wants no CPU.
type patience struct {
	// effort says how much CPU time the microVM has used, and whether it wants more at this moment.
	effort func(context.Context) (cpu time.Duration, wants bool, err error)
}

// around gives the context of a request with a limit, and what frees it. When the limit is over, it says so as any context does.
func (p patience) around(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithTimeout(ctx, mostPatience*limit)
	r := &request{Context: inner}
	go func() {
		if p.outwait(inner, limit) {
			r.over.Store(true)
			cancel()
		}
	}()
	return r, cancel
}

// request is the context of a request to the guest.
type request struct {
	context.Context
	over atomic.Bool // its limit is
}

// Err is context.DeadlineExceeded if the limit is over.
func (r *request) Err() error {
	err := r.Context.Err()
	if err != nil && r.over.Load() {
		return context.DeadlineExceeded
	}
	return err
}

// outwait returns true when the limit is over, and false when there is nothing to wait for any more.
func (p patience) outwait(ctx context.Context, limit time.Duration) bool {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var used, had time.Duration
	for at := time.Now(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		after := min(time.Since(at), 2*lookInterval) // who looks too late has not been given a CPU itself
		at = time.Now()
		cpu, wants, err := p.effort(ctx)
		if err == nil && wants { // a microVM that is not there wants nothing
			after = min(after, cpu-used)
		}
		had, used = had+after, cpu
		if had >= limit {
			return true
		}
	}
}

// effort asks nodeless-vmm, which answers at once.
func (v vm) effort(ctx context.Context) (cpu time.Duration, wants bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookInterval)
	defer cancel()
	var answer contract.Effort
	err = v.call(ctx, http.MethodGet, contract.CallEffort, nil, &answer)
	return answer.CPU, answer.Wants, err
}
