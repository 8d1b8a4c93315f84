package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
)

// load asks a URL over and over from a host, with a connection for each question, so that a Service spreads them over its Pods.
type load struct {
	began   time.Time
	answers chan string // names of the Pods that answer

	cancel       context.CancelFunc
	workers      sync.WaitGroup
	good, failed atomic.Int64
	last         atomic.Pointer[error] // what went wrong last
}

// startLoad begins with so many askers, each of which waits for its answer before it asks again.
func startLoad(ctx context.Context, from *testbed.Host, url string, askers int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{answers: make(chan string), cancel: cancel, began: time.Now()}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}}
	for range askers {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				pod, err := ask(ctx, client, url)
				if err != nil {
					l.failed.Add(1)
					l.last.Store(&err)
					select { // a refusal costs nobody anything: do not ask faster than an answer takes
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond):
					}
					continue
				}
				l.good.Add(1)
				select {
				case l.answers <- pod:
				case <-ctx.Done():
				}
			}
		})
	}
	return l
}

// stop ends the load and waits for its askers.
func (l *load) stop() {
	l.cancel()
	l.workers.Wait()
}

func (l *load) String() string {
	text := fmt.Sprintf("%d answers, %d failures", l.good.Load(), l.failed.Load())
	if err := l.last.Load(); err != nil {
		text += fmt.Sprintf(", the last one: %v", *err)
	}
	return text
}

// ask gives the name of the Pod that answers "pod NAME used N ms".
func ask(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(body))
	if res.StatusCode != http.StatusOK || len(fields) < 2 || fields[0] != "pod" {
		return "", fmt.Errorf("%s: %q", res.Status, body)
	}
	return fields[1], nil
}
