package datastore

import (
	"context"
	"errors"
	"testing"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
)

// sickLog is a database that answers every append in the same way and holds nothing.
type sickLog struct {
	logstructured.Log // no other method is called
	rev               int64
	err               error
}

func (l sickLog) Append(context.Context, *server.Event) (int64, error) { return l.rev, l.err }
func (l sickLog) CurrentRevision(context.Context) (int64, error)       { return 7, nil }
func (l sickLog) List(context.Context, string, string, int64, int64, bool, bool) (server.EventBatch, error) {
	return server.EventBatch{CurrentRev: 7}, nil
}

// TestRefusedWritesAreNotAcknowledged: with a full disk kine told the apiserver that a new object had been created.
func TestRefusedWritesAreNotAcknowledged(t *testing.T) {
	full := errors.Join(sqlite3.Error{Code: sqlite3.ErrFull}, errors.New("no transaction is active"))
	for _, tt := range []struct {
		name    string
		log     sickLog
		refused bool
	}{
		{"full disk", sickLog{err: full}, true},
		{"written", sickLog{rev: 8}, false},
		{"lost race", sickLog{err: server.ErrKeyExists}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTruthful(tt.log)
			_, createErr := b.Create(t.Context(), "/k", nil, 0)
			_, _, _, updateErr := b.Update(t.Context(), "/k", nil, 3, 0)
			_, _, _, deleteErr := b.Delete(t.Context(), "/k", 3)
			for call, err := range map[string]error{"Create": createErr, "Update": updateErr, "Delete": deleteErr} {
				var fault sqlite3.Error
				if got := errors.As(err, &fault) && fault.Code == sqlite3.ErrFull; got != tt.refused {
					t.Errorf("%s = %v, want a full disk told: %v", call, err, tt.refused)
				}
			}
		})
	}
}
