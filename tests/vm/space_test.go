package vm_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// space is a namespace of one test in the shared cluster.
type space struct {
	testcluster.Space
}

// newSpace lets the test run beside others, as many as the host has processors: most of a Pod's life is waiting.
func newSpace(t *testing.T, timeout time.Duration) *space {
	t.Helper()
	t.Parallel()
	return newQuietSpace(t, timeout)
}

// newQuietSpace is for tests that end a process of the host, measure it or fill it, or have parallel parts, which would wait
// for other tests while the time of their space runs: no other runs meanwhile.
func newQuietSpace(t *testing.T, timeout time.Duration) *space {
	t.Helper()
	return &space{*testcluster.NewSpace(t, shared, timeout)}
}

// with is the same space for a part of the test.
func (s *space) with(t *testing.T) *space {
	part := *s
	part.T = t
	return &part
}

// get asks a URL from the host, as a program of the host would.
func (s *space) get(url string) (string, error) { return getFrom(s.Ctx, s.Host, url) }

func getFrom(ctx context.Context, h *testbed.Host, url string) (string, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return h.Dial(ctx, network, addr)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", res.Status)
	}
	return string(body), err
}

func splitLines(text string) []string {
	return strings.Split(strings.TrimSpace(text), "\n")
}
