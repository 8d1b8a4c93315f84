package billing

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/meter"
)

// readers is how many requests read the ledger or the journal at once, one of each namespace, or of all of them, at a time. The files have
// four connections, one of which those who write need.
const readers = 3

// newTurns gives what has requests take turns, by their namespace.
func newTurns() *fair.Limiter { return fair.New(readers, 1) }

// read waits for its turn. The caller calls done when it has read.
func (s *Server) read(ctx context.Context) (done func(), err error) {
	namespace := request.NamespaceValue(ctx)
	if err := s.turns.Acquire(ctx, namespace, 1); err != nil {
		return nil, failed(ctx, err)
	}
	return func() { s.turns.Release(namespace, 1) }, nil
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
