package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// chatter never ends and is never slow.
type chatter struct{}

func (chatter) Read(buf []byte) (int, error) { return len(buf), nil }

// TestALogWithoutPauseIsPaced: two containers of a Pod say as much as they can, and together get what the Pod may have.
func TestALogWithoutPauseIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, lasts = 1 << 20, 60 * time.Second
		p := newPace(rate)
		var all sync.WaitGroup
		var mu sync.Mutex
		var said int64
		end := time.Now().Add(lasts)
		for range 2 {
			all.Go(func() {
				r, buf := p.around(chatter{}), make([]byte, 32<<10)
				for time.Now().Before(end) {
					n, err := r.Read(buf)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					said += int64(n)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		want := int64(rate * (logSeconds + lasts.Seconds()))
		if said > want+(64<<10) || said < want-(64<<10) {
			t.Errorf("%d bytes were taken, want %d", said, want)
		}
	})
}

func TestNothingThatIsSaidIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := strings.Repeat("0123456789", 10_000)
		began := time.Now()
		got, err := io.ReadAll(newPace(1000).around(strings.NewReader(text)))
		if err != nil || string(got) != text {
			t.Errorf("%d of %d bytes came, %v", len(got), len(text), err)
		}
		if took := time.Since(began).Round(time.Second); took != 92*time.Second { // 8,000 bytes are free
			t.Errorf("it took %v", took)
		}
	})
}

func TestAStreamThatIsNotPaced(t *testing.T) {
	if newPace(1).around(nil) != nil {
		t.Error("no stream became one")
	}
	if r := newPace(0).around(chatter{}); r != (chatter{}) {
		t.Errorf("without a bound the stream is %T", r)
	}
	settings := filepath.Join(t.TempDir(), "vmm.json")
	if got := hostConfig(settings).LogRate; got != 0 {
		t.Errorf("without settings the bound is %d", got)
	}
	if err := os.WriteFile(settings, []byte(`{"logRate":4096,"scratchDir":"/d"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := hostConfig(settings).LogRate; got != 4096 {
		t.Errorf("the bound is %d, want 4096", got)
	}
}
