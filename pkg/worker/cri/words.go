package cri

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// mostWords bounds a text that comes from a guest or a registry, in bytes. The agent in a guest may answer a call with an error of 4 MiB,
	// and a registry a pull. The kubelet puts such texts into the Pod's status and into events; one that the apiserver does not take keeps
	// the Pod's status from being written at all.
	mostWords = 2 << 10
	// endOfWords is how much of that is kept of a long text's end, where the cause is.
	endOfWords = 512
	// mostReason bounds the one word that says why, in bytes.
	mostReason = 128
	// detailsTrailer carries a status a second time, with the whole message.
	detailsTrailer = "grpc-status-details-bin"
)

// words is a text that is fit to be shown: valid UTF-8 of at most mostWords, without control characters but for line ends and tabs. A text
// that is cut says so. What is replaced becomes no longer by it.
func words(text string) string {
	if len(text) > mostWords {
		const note = " [%d bytes are left out here] "
		room := mostWords - len(note) - 20 // for a number
		head, tail := firstBytes(text, room-endOfWords), lastBytes(text, endOfWords)
		text = head + fmt.Sprintf(note, len(text)-len(head)-len(tail)) + tail
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// firstBytes is the first n bytes of a text, or a few less: no character is cut in two.
func firstBytes(text string, n int) string {
	for k := n; k > n-utf8.UTFMax; k-- {
		if utf8.RuneStart(text[k]) {
			return text[:k]
		}
	}
	return text[:n] // it is no UTF-8
}

// lastBytes is the last n bytes of a text, or a few less.
func lastBytes(text string, n int) string {
	text = text[len(text)-n:]
	for k := range utf8.UTFMax {
		if utf8.RuneStart(text[k]) {
			return text[k:]
		}
	}
	return text
}

// briefly is an error with its code and a message that is fit to be shown. Details, in which the message is once more, are left out; the
// kubelet looks at none.
func briefly(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	return status.Error(s.Code(), words(s.Message()))
}

// brieflyOne does so for calls that are answered here.
func brieflyOne(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, briefly(err)
}

// brieflyAll does so for calls that go through.
func brieflyAll(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return briefly(next(srv, stream))
}

// inFewWords bounds what a container's status says of its end: the words of a guest in which it could not be started.
func inFewWords(s *cri.ContainerStatus) {
	if s == nil {
		return
	}
	s.Message = words(s.Message)
	if s.Reason = words(s.Reason); len(s.Reason) > mostReason {
		s.Reason = firstBytes(s.Reason, mostReason)
	}
}
