package logbridge

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"github.com/nodeless/nodeless/pkg/run"
)

// ErrFatal is the fault of a library that wanted to end the process; what it said is in the log.
var ErrFatal = errors.New("a linked library gave up; the log line before says why")

// Fatal is the component "libraries": it turns klog's Fatal, which would end the process on the spot with a dump of all
// goroutines, into a fault like any other's, so that the components are stopped in order and the cause is shown.
// When they are stopping already, it is no more than a consequence and is ignored.
type Fatal struct{ wanted chan struct{} }

var _ run.Component = (*Fatal)(nil)

// NewFatal takes over klog's way out of the process, until the process ends.
func NewFatal() *Fatal {
	f := &Fatal{wanted: make(chan struct{}, 1)}
	klog.OsExit = func(int) {
		select {
		case f.wanted <- struct{}{}:
		default:
		}
		select {} // Fatal must not return; the goroutine ends with the process
	}
	return f
}

// Name is "libraries".
func (*Fatal) Name() string { return "libraries" }

// Run returns when a library gives up.
func (f *Fatal) Run(ctx context.Context) error {
	select {
	case <-f.wanted:
		return ErrFatal
	case <-ctx.Done():
		return nil
	}
}
