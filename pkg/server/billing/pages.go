package billing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/nodeless/nodeless/pkg/meter"
)

// readers is how many requests read the ledger or the journal at once, of different namespaces. The files have four connections, one of
// which those who write need.
const readers = 3

// turns has requests take turns: one of each namespace, or of all of them, reads at a time.
type turns struct {
	all chan struct{} // a place for each that reads

	mu    sync.Mutex
	queue map[string]*queued // guarded by mu
}

// queued are the requests of a namespace.
type queued struct {
	turn    chan struct{} // a place for the one that reads
	waiting int           // with the one that reads; guarded by turns.mu
}

func newTurns() *turns {
	return &turns{all: make(chan struct{}, readers), queue: map[string]*queued{}}
}

// take waits for the turn of a request of a namespace. The caller calls done when it has read.
func (t *turns) take(ctx context.Context, namespace string) (done func(), err error) {
	t.mu.Lock()
	q := t.queue[namespace]
	if q == nil {
		q = &queued{turn: make(chan struct{}, 1)}
		t.queue[namespace] = q
	}
	q.waiting++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.waiting--; q.waiting == 0 {
			delete(t.queue, namespace)
		}
	}
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		<-q.turn
		leave()
		return nil, ctx.Err()
	}
	return func() {
		<-t.all
		<-q.turn
		leave()
	}, nil
}

// read waits for its turn. The caller calls done when it has read.
func (s *Server) read(ctx context.Context) (done func(), err error) {
	done, err = s.turns.take(ctx, request.NamespaceValue(ctx))
	if err != nil {
		return nil, failed(ctx, err)
	}
	return done, nil
}

// place is where a list goes on, as a client hands it back: of what time it is, and behind which usage. It gives no rights.
type place struct {
	From, To time.Time
	After    meter.Mark
}

// String is the token for metadata.continue.
func (p place) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return "" // there is nothing in it that can fail
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// placeOf reads a token; without one the list begins at first.
func placeOf(token string, first place) (place, error) {
	if token == "" {
		return first, nil
	}
	var p place
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.After.Sandbox == "" {
		return place{}, apierrors.NewBadRequest("continue: it is not what a list of usages gave")
	}
	return p, nil
}
