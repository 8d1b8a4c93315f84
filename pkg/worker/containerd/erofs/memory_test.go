package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/metadata"

	"github.com/nodeless/nodeless/pkg/api"
	image "github.com/nodeless/nodeless/pkg/erofs"
	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// by is the context of a call that is about a Pod of the namespace.
func by(ctx context.Context, namespace string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(api.PodNamespaceHeader, namespace))
}

func TestMemoryIsDividedByWhatTheProcessHas(t *testing.T) {
	for limit, want := range map[int64]int{0: 1, 1 << 30: 1, 1792 << 20: 2, 64 << 30: 2} {
		m, got := works(limit), 0
		for i := range 5 {
			ctx, cancel := context.WithTimeout(by(t.Context(), fmt.Sprint(i)), time.Millisecond)
			if m.large.Acquire(ctx, fmt.Sprint(i), 1) == nil {
				got++
			}
			cancel()
		}
		if got != want {
			t.Errorf("%d bytes: %d large works at once, want %d", limit, got, want)
		}
	}
}

// TestAttackManyLargeLayersAtOnce: one namespace brings ten layers of as many names as an image may have. They are converted in turn,
// and another namespace's layers, small or large, do not wait behind them.
func TestAttackManyLargeLayersAtOnce(t *testing.T) {
	attack.Try(t, "T8", "ten layers of as many names as can be are converted at once", func(t *testing.T) attack.Outcome {
		mem := works(1792 << 20)
		var large, most atomic.Int32
		release := make(chan struct{})
		work := func(l image.Limits) error { // what a conversion is to its memory
			if err := l.Grow(); err != nil {
				return err
			}
			most.Store(max(most.Load(), large.Add(1)))
			defer large.Add(-1)
			<-release
			return nil
		}
		done := make(chan error, 10)
		for range 10 {
			go func() { done <- mem.within(by(t.Context(), "greedy"), work) }()
		}
		for large.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		for name, theirs := range map[string]func(image.Limits) error{
			"small": func(image.Limits) error { return nil }, "large": func(l image.Limits) error { return l.Grow() },
		} {
			ctx, cancel := context.WithTimeout(by(t.Context(), "neighbour"), 10*time.Second)
			if err := mem.within(ctx, theirs); err != nil {
				t.Errorf("a %s layer of the neighbour: %v", name, err)
			}
			cancel()
		}
		close(release)
		for range 10 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if most.Load() != 1 {
			t.Errorf("%d of one namespace were in memory at once, want 1", most.Load())
		}
		return attack.Contained
	})
}

// TestAttackMoreNamesThanALayerMayHave: a download of a few hundred kilobytes that becomes half a million names and one.
func TestAttackMoreNamesThanALayerMayHave(t *testing.T) {
	attack.Try(t, "T8", "a small layer that becomes more names than one may have", func(t *testing.T) attack.Outcome {
		s := newSnapshotter(t)
		again := testregistry.Tar(testregistry.File("again", 0o644, ""))[:512]
		cs, desc := store(t, ocispec.MediaTypeImageLayer, bytes.Repeat(again, 512<<10+1))
		_, err := newDiffer(cs, works(0)).Apply(t.Context(), desc, prepare(t, s, "extract", ""))
		if !errors.Is(err, image.ErrTooLarge) {
			t.Errorf("apply = %v, want %v", err, image.ErrTooLarge)
		}
		return attack.Refused
	})
	attack.Try(t, "T8", "layers that are fine alone and too many names together", func(t *testing.T) attack.Outcome {
		m := works(0)
		parts := make([]*os.File, 2)
		for i := range parts {
			var err error
			if parts[i], err = os.CreateTemp(t.TempDir(), ""); err != nil {
				t.Fatal(err)
			}
			if err := image.Convert(t.Context(), names(fmt.Sprint(i), 300_000), parts[i], image.DefaultLimits()); err != nil {
				t.Fatal(err)
			}
		}
		err := m.within(t.Context(), func(l image.Limits) error {
			out, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				return err
			}
			return image.Merge(t.Context(), parts, out, l)
		})
		if !errors.Is(err, image.ErrTooLarge) {
			t.Errorf("merge = %v, want %v", err, image.ErrTooLarge)
		}
		return attack.Refused
	})
}

// names is a tar of so many empty files.
func names(prefix string, n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		for i := range n {
			all := testregistry.Tar(testregistry.File(fmt.Sprintf("%s/%03d/%d", prefix, i/1000, i), 0o644, ""))
			if _, err := w.Write(all[:512]); err != nil {
				return
			}
		}
		_ = w.CloseWithError(errors.Join(func() error { _, err := w.Write(make([]byte, 1024)); return err }()))
	}()
	return r
}
