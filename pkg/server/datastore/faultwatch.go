package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/mattn/go-sqlite3"
	"google.golang.org/grpc"

	"github.com/nodeless/nodeless/pkg/hint"
)

// faultWatch looks at the errors of requests for those that are not the client's. A full disk is told once, and that it
// is over; damage ends the process, for only a new start can return to a snapshot.
type faultWatch struct {
	file string
	log  *slog.Logger
	fail context.CancelCauseFunc

	mu   sync.Mutex
	full bool // guarded by mu
}

func (w *faultWatch) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	w.look(err, info.FullMethod == "/etcdserverpb.KV/Txn")
	return resp, err
}

func (w *faultWatch) look(err error, wrote bool) {
	var fault sqlite3.Error
	if err != nil && !errors.As(err, &fault) {
		return
	}
	switch {
	case damages(err):
		w.fail(&hint.Error{Op: "use database", On: w.file, Err: fmt.Errorf("%w: %w", ErrDamaged, err), Do: "start the server again: it returns to the last good snapshot"})
	case err != nil && (fault.Code == sqlite3.ErrFull || fault.Code == sqlite3.ErrIoErr):
		w.setFull(true, err)
	case err == nil && wrote:
		w.setFull(false, nil)
	}
}

func (w *faultWatch) setFull(full bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if full == w.full {
		return
	}
	w.full = full
	if full {
		w.log.Error("database cannot be written: changes are refused until it can", "file", w.file, "error", err,
			"do", "make room on the file system of "+filepath.Dir(w.file)+"; the server goes on by itself")
		return
	}
	w.log.Info("database can be written again", "file", w.file)
}
