package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming"
	"github.com/containerd/typeurl/v2"
)

// answerTimeout is long for what happens in memory. containerd does not answer at all if it cannot make sense of a secret.
const answerTimeout = 5 * time.Second

// secrets asks containerd for the credentials that came with a pull. containerd creates the stream, if it has any.
type secrets struct {
	reference string

	mu     sync.Mutex // one question at a time
	stream *stream    // our end; nil: there are none
}

var _ streaming.StreamCreator = (*secrets)(nil)

// Create makes the stream by which containerd answers.
func (s *secrets) Create(ctx context.Context, _ string) (streaming.Stream, error) {
	questions, answers := make(chan typeurl.Any), make(chan typeurl.Any)
	s.stream = &stream{done: ctx.Done(), in: answers, out: questions}
	return &stream{done: ctx.Done(), in: questions, out: answers}, nil
}

// of gives name and password, or no name and a token, or nothing.
func (s *secrets) of(host string) (name, secret string, err error) {
	if s.stream == nil {
		return "", "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	question, err := typeurl.MarshalAny(&transfertypes.AuthRequest{Host: host, Reference: s.reference})
	if err != nil {
		return "", "", err
	}
	if err := s.stream.Send(question); err != nil {
		return "", "", err
	}
	select {
	case raw := <-s.stream.in:
		var answer transfertypes.AuthResponse
		if err := typeurl.UnmarshalTo(raw, &answer); err != nil {
			return "", "", err
		}
		return answer.Username, answer.Secret, nil
	case <-s.stream.done:
		return "", "", context.Canceled
	case <-time.After(answerTimeout):
		return "", "", fmt.Errorf("read credentials for %s: %w", host, errBadSecret)
	}
}

var errBadSecret = errors.New("the Pod's secret cannot be made sense of")

// stream is one end of a stream in memory; it ends with the pull.
type stream struct {
	done <-chan struct{}
	in   <-chan typeurl.Any
	out  chan<- typeurl.Any
}

func (s *stream) Send(message typeurl.Any) error {
	select {
	case s.out <- message:
		return nil
	case <-s.done:
		return io.EOF
	}
}

func (s *stream) Recv() (typeurl.Any, error) {
	select {
	case message := <-s.in:
		return message, nil
	case <-s.done:
		return nil, io.EOF
	}
}

func (s *stream) Close() error { return nil }
