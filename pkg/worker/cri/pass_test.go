package cri

import (
	"errors"
	"io"
	"testing"
)

// source has messages without end.
type source struct{ messages }

func (source) RecvMsg(any) error { return nil }

// sink takes a message, and then answers err.
type sink struct {
	messages
	err   error
	taken int
}

func (s *sink) SendMsg(any) error {
	s.taken++
	if s.taken > 1 {
		return s.err
	}
	return nil
}

// TestAnAnswerBeforeTheLastMessage: a server that has answered before it had all messages ends the copying, and is no reason to cancel
// the call, whose status is still to come. gRPC's ClientStream says so by io.EOF.
func TestAnAnswerBeforeTheLastMessage(t *testing.T) {
	answered := &sink{err: io.EOF}
	if err := copyFrames(answered, source{}); err != nil || answered.taken != 2 {
		t.Errorf("after %d messages: %v, want none", answered.taken, err)
	}
	broken := &sink{err: errors.New("broken")}
	if err := copyFrames(broken, source{}); !errors.Is(err, broken.err) {
		t.Errorf("a caller who has gone: %v", err)
	}
}
