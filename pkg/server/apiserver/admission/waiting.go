package admission

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
)

// waiting is what a plugin is built on that goes by what informers know of the cluster. Before they know it, the plugin would let through
// what it is there to change or to refuse.
type waiting struct {
	*admission.Handler
	name   string
	synced []cache.InformerSynced
}

// newWaiting is for a plugin that handles the operations; r is told of it.
func newWaiting(name string, r *Readiness, operations ...admission.Operation) *waiting {
	w := &waiting{Handler: admission.NewHandler(operations...), name: name}
	w.SetReadyFunc(w.ready)
	r.add(w)
	return w
}

// follow adds informers to those that are waited for.
func (w *waiting) follow(synced ...cache.InformerSynced) { w.synced = append(w.synced, synced...) }

func (w *waiting) ready() bool {
	for _, synced := range w.synced {
		if !synced() {
			return false
		}
	}
	return true
}

// await holds a request up until the informers know the cluster. It refuses one that has waited for long.
func (w *waiting) await(a admission.Attributes) error {
	if w.WaitForReady() {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("admission plugin %s: not yet ready to handle the request", w.name))
}

// Readiness is the part of /readyz that is about our plugins.
type Readiness struct {
	mu      sync.Mutex
	plugins []*waiting // guarded by mu
}

var _ healthz.HealthChecker = (*Readiness)(nil)

func (r *Readiness) add(w *waiting) {
	if r == nil { // a plugin of a test's own
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plugins = append(r.plugins, w)
}

// Name is how /readyz?verbose lists it.
func (r *Readiness) Name() string { return "serverless-admission" }

// Check names the plugins that would hold requests up.
func (r *Readiness) Check(*http.Request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var late []string
	for _, w := range r.plugins {
		if !w.ready() {
			late = append(late, w.name)
		}
	}
	if len(late) > 0 {
		return errors.New("admission plugins wait for their informers: " + strings.Join(late, ", "))
	}
	return nil
}
