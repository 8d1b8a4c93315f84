package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/fair"
)

// Kinds of errors: what a registry did that no sane one does.
var (
	ErrTooSlow  = errors.New("the registry sends too slowly")
	ErrTooLong  = errors.New("the pull takes too long")
	ErrTooLarge = errors.New("larger than such a thing may be")
)

// Limits are what one pull may take of the host.
type Limits struct {
	Timeout time.Duration // of a pull from its first request to its last layer's conversion; 0: none
	Rate    int64         // bytes a second that a download must come with, over Window; 0: none
	Window  time.Duration
}

// DefaultLimits let everything through that ends at all on a line on which images make sense.
func DefaultLimits() Limits { return Limits{Timeout: time.Hour, Rate: 16 << 10, Window: time.Minute} }

const (
	maxActive    = 4  // downloads that bytes are taken of at the same time, for the whole host; of one namespace one less
	maxOpen      = 64 // downloads that are open, for the whole host
	openByTenant = 3  // of one namespace

	turn  = 2 * time.Second        // how long a download keeps its place while others wait
	quiet = 200 * time.Millisecond // how long it keeps its place while no byte comes

	// maxDocument bounds manifests, indexes and configurations, which containerd reads into memory. Registries take no larger ones.
	maxDocument = 4 << 20
)

// places is what all pulls share: connections, and which of them are read from. Namespaces take turns at both. A connection that gives
// nothing costs little and is only counted; a place among those that are read is held while bytes come.
type places struct {
	limits Limits
	open   *fair.Limiter
	active *fair.Limiter
}

func newPlaces(l Limits) *places {
	return &places{limits: l, open: fair.New(maxOpen, openByTenant), active: fair.New(maxActive, maxActive-1)}
}

// fetcher bounds what one pull downloads.
type fetcher struct {
	transfer.Fetcher
	places *places
	tenant string
}

// Fetch opens a download, which begins with its first byte read. The reader must be closed.
func (f *fetcher) Fetch(ctx context.Context, desc ocispec.Descriptor) (_ io.ReadCloser, err error) {
	document := images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) || images.IsConfigType(desc.MediaType)
	if document && desc.Size > maxDocument {
		return nil, fmt.Errorf("fetch %s of %d bytes, type %s: more than %d: %w", desc.Digest, desc.Size, desc.MediaType, maxDocument, ErrTooLarge)
	}
	desc.URLs = nil // an image sends nobody elsewhere: the request would be the host's
	if err := f.places.open.Acquire(ctx, f.tenant, 1); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	from, err := f.Fetcher.Fetch(ctx, desc)
	if err != nil {
		cancel(nil)
		f.places.open.Release(f.tenant, 1)
		return nil, err
	}
	return &download{ctx: ctx, cancel: cancel, from: from, places: f.places, tenant: f.tenant, credit: f.places.limits.Window}, nil
}

// download is a layer on its way. It is read by one goroutine.
type download struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	from   io.ReadCloser
	places *places
	tenant string

	credit time.Duration // time that may pass until more bytes come; each byte adds to it, up to the window
	since  time.Time     // when the place was taken
	closed bool

	mu   sync.Mutex
	held bool // a place among the active; guarded by mu, for it is given up while a read waits
}

// Read reads when it is this download's turn, and gives the download up when it has become too slow.
func (d *download) Read(p []byte) (int, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	idle := time.AfterFunc(quiet, d.leave)
	defer idle.Stop()
	if d.places.limits.Rate > 0 {
		slow := time.AfterFunc(d.credit, func() { d.cancel(d.tooSlow()) })
		defer slow.Stop()
	}
	began := time.Now()
	n, err := d.from.Read(p)
	d.account(n, time.Since(began))
	if why := context.Cause(d.ctx); err != nil && why != nil {
		err = why // in place of "context canceled"
	}
	return n, err
}

func (d *download) account(n int, took time.Duration) {
	if rate := d.places.limits.Rate; rate > 0 {
		d.credit += time.Duration(float64(n)/float64(rate)*float64(time.Second)) - took
		d.credit = min(max(d.credit, time.Millisecond), d.places.limits.Window)
	}
	if time.Since(d.since) > turn && d.places.active.Wanted(d.tenant) {
		d.leave()
	}
}

func (d *download) tooSlow() error {
	l := d.places.limits
	return fmt.Errorf("less than %d bytes a second over %s: %w", l.Rate, l.Window, ErrTooSlow)
}

// enter waits for a place unless there is one.
func (d *download) enter() error {
	d.mu.Lock()
	held := d.held
	d.mu.Unlock()
	if held {
		return nil
	}
	if err := d.places.active.Acquire(d.ctx, d.tenant, 1); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.since = true, time.Now()
	return nil
}

// leave gives the place up.
func (d *download) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held {
		d.held = false
		d.places.active.Release(d.tenant, 1)
	}
}

// Seek is for a download that goes on where an earlier one has ended.
func (d *download) Seek(offset int64, whence int) (int64, error) {
	seeker, ok := d.from.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("go on with a download: %w", errors.ErrUnsupported)
	}
	return seeker.Seek(offset, whence)
}

// Close ends the download.
func (d *download) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	d.cancel(context.Canceled)
	err := d.from.Close()
	d.leave()
	d.places.open.Release(d.tenant, 1)
	return err
}
