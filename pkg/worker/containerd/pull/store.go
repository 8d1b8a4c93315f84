package pull

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// store is the content store as a pull sees it. What is already there counts for a pull only when its registry has let it see the same;
// and what is half there is its own namespace's: who fills it with something else, or holds it, harms nobody but himself.
type store struct{ content.Store }

var _ content.Store = store{}

// Writer takes in content. What is there and not yet shown is taken in once more, to nowhere, and compared.
func (s store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	p := pullOf(ctx)
	if p == nil {
		return s.Store.Writer(ctx, opts...)
	}
	var want content.WriterOpts
	for _, opt := range opts {
		if err := opt(&want); err != nil {
			return nil, err
		}
	}
	if want.Desc.Digest != "" {
		switch info, err := s.Info(ctx, want.Desc.Digest); {
		case errdefs.IsNotFound(err):
		case err != nil:
			return nil, err
		case p.mayHave(ctx, info):
			return nil, fmt.Errorf("content %s: %w", info.Digest, errdefs.ErrAlreadyExists)
		default:
			return newComparer(p, want.Ref, info), nil
		}
	}
	w, err := s.Store.Writer(ctx, content.WithRef(p.ref(want.Ref)), content.WithDescriptor(want.Desc))
	if err != nil {
		return nil, err
	}
	return &writer{Writer: w, pull: p, digest: want.Desc.Digest, ref: want.Ref}, nil
}

// ListStatuses lists what the pull's namespace has half.
func (s store) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	all, err := s.Store.ListStatuses(ctx, filters...)
	p := pullOf(ctx)
	if p == nil || err != nil {
		return all, err
	}
	var own []content.Status
	for _, status := range all {
		if ref, ok := strings.CutPrefix(status.Ref, p.ref("")); ok {
			status.Ref = ref
			own = append(own, status)
		}
	}
	return own, nil
}

// Status is that of what the pull's namespace has half.
func (s store) Status(ctx context.Context, ref string) (content.Status, error) {
	p := pullOf(ctx)
	if p == nil {
		return s.Store.Status(ctx, ref)
	}
	status, err := s.Store.Status(ctx, p.ref(ref))
	status.Ref = ref
	return status, err
}

// Abort forgets what the pull's namespace has half.
func (s store) Abort(ctx context.Context, ref string) error {
	if p := pullOf(ctx); p != nil {
		ref = p.ref(ref)
	}
	return s.Store.Abort(ctx, ref)
}

// writer notes that content has come.
type writer struct {
	content.Writer
	pull   *pulling
	digest digest.Digest
	ref    string // as the pull knows it
}

// Commit keeps the content. What turned out to be something else is thrown away, so that the next pull begins anew.
func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	err := w.Writer.Commit(ctx, size, expected, opts...)
	switch {
	case err == nil || errdefs.IsAlreadyExists(err):
		if expected == "" || w.digest != "" && expected != w.digest {
			break
		}
		w.pull.show(expected)
		if info, gone := w.pull.store.Info(ctx, expected); gone == nil {
			w.pull.remember(ctx, info)
		}
	case errdefs.IsFailedPrecondition(err):
		if gone := w.pull.store.Store.Abort(ctx, w.pull.ref(w.ref)); gone != nil && !errdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// Status is the writer's, by the name that the pull knows.
func (w *writer) Status() (content.Status, error) {
	status, err := w.Writer.Status()
	status.Ref = w.ref
	return status, err
}

// comparer takes in content that is there already and keeps none of it.
type comparer struct {
	pull   *pulling
	ref    string
	info   content.Info
	sum    digest.Digester
	size   int64
	opened time.Time
}

var _ content.Writer = (*comparer)(nil)

func newComparer(p *pulling, ref string, info content.Info) *comparer {
	return &comparer{pull: p, ref: ref, info: info, sum: info.Digest.Algorithm().Digester(), opened: time.Now()}
}

func (c *comparer) Write(b []byte) (int, error) {
	c.size += int64(len(b))
	return c.sum.Hash().Write(b)
}

func (c *comparer) Close() error          { return nil }
func (c *comparer) Digest() digest.Digest { return c.sum.Digest() }

func (c *comparer) Status() (content.Status, error) {
	return content.Status{Ref: c.ref, Offset: c.size, Total: c.info.Size, Expected: c.info.Digest, StartedAt: c.opened, UpdatedAt: time.Now()}, nil
}

func (c *comparer) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("truncate to %d: %w", size, errors.ErrUnsupported)
	}
	c.size = 0
	c.sum.Hash().Reset()
	return nil
}

// Commit says whether the registry has what is there.
func (c *comparer) Commit(ctx context.Context, _ int64, _ digest.Digest, _ ...content.Opt) error {
	if got := c.sum.Digest(); got != c.info.Digest {
		return fmt.Errorf("content is %s, not %s: %w", got, c.info.Digest, errdefs.ErrFailedPrecondition)
	}
	c.pull.show(c.info.Digest)
	c.pull.remember(ctx, c.info)
	return fmt.Errorf("content %s: %w", c.info.Digest, errdefs.ErrAlreadyExists)
}
