package testregistry

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobs keeps blobs under whatever digest they are given.
type blobs struct {
	mu   sync.Mutex
	data map[string][]byte // by digest; guarded by mu
}

var (
	_ registry.BlobHandler     = (*blobs)(nil)
	_ registry.BlobStatHandler = (*blobs)(nil)
)

func (b *blobs) put(digest string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data[digest] = data
}

func (b *blobs) find(h v1.Hash) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.data[h.String()]
	if !ok {
		return nil, registry.ErrNotFound
	}
	return data, nil
}

// Stat gives a blob's size.
func (b *blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	data, err := b.find(h)
	return int64(len(data)), err
}

// Get gives a blob's content.
func (b *blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	data, err := b.find(h)
	return io.NopCloser(bytes.NewReader(data)), err
}
