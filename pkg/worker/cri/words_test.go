package cri

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	client "k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/tests/attack"
)

// tirade is what a hostile agent answers, of so many bytes: text with what a terminal would obey in it.
func tirade(size int) string {
	const bit = "never and never \x1b[2J and é once more \u0085"
	return "create container: " + strings.Repeat(bit, size/len(bit)) + ": no such file"
}

// angry is an error with 4 MiB of words, twice: as the message and in its details.
func angry(t *testing.T) error {
	t.Helper()
	text := tirade(4 << 20)
	s, err := status.New(codes.NotFound, text).WithDetails(wrapperspb.String(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// fit complains of a text that is not fit for a Pod's status, or has lost its beginning or its end.
func fit(t *testing.T, what, text string) {
	t.Helper()
	switch {
	case len(text) > mostWords:
		t.Errorf("%s is %d bytes long", what, len(text))
	case !utf8.ValidString(text):
		t.Errorf("%s is not UTF-8: %q", what, text)
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		t.Errorf("%s has control characters: %q", what, text)
	case !strings.HasPrefix(text, "create container: ") || !strings.HasSuffix(text, ": no such file") || !strings.Contains(text, "bytes are left out here"):
		t.Errorf("%s does not tell what happened: %q", what, text)
	}
}

// TestAttackWordsOfAnError: a guest's agent, or a registry, answers with an error that the Pod's status cannot hold.
func TestAttackWordsOfAnError(t *testing.T) {
	c, up, cfg := start(t)
	up.fails, up.status = angry(t), &cri.ContainerStatus{Message: tirade(4 << 20), Reason: strings.Repeat("é", 1<<20)}
	refused := func(t *testing.T, call string, err error) attack.Outcome {
		t.Helper()
		s := status.Convert(err)
		if s.Code() != codes.NotFound || len(s.Details()) > 0 {
			t.Errorf("%s = code %s with %d details, want NotFound and none", call, s.Code(), len(s.Details()))
		}
		fit(t, call+"'s message", s.Message())
		return attack.Contained
	}
	attack.Try(t, "T4", "a call that goes through fails with 4 MiB of words", func(t *testing.T) attack.Outcome {
		_, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: "c"})
		return refused(t, "StopContainer", err)
	})
	attack.Try(t, "T4", "a call that is answered here does", func(t *testing.T) attack.Outcome {
		_, err := c.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: "c"})
		return refused(t, "RemoveContainer", err)
	})
	attack.Try(t, "T4", "a pull does", func(t *testing.T) attack.Outcome {
		conn, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = cri.NewImageServiceClient(conn).PullImage(t.Context(), &cri.PullImageRequest{})
		return refused(t, "PullImage", err)
	})
	attack.Try(t, "T4", "a stream of events does", func(t *testing.T) attack.Outcome {
		events, err := c.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
		for err == nil {
			_, err = events.Recv()
		}
		return refused(t, "GetContainerEvents", err)
	})
	attack.Try(t, "T4", "a container ends with them", func(t *testing.T) attack.Outcome {
		resp, err := c.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: "c"})
		if err != nil {
			t.Fatal(err)
		}
		fit(t, "the message", resp.Status.Message)
		if reason := resp.Status.Reason; len(reason) > mostReason || !utf8.ValidString(reason) {
			t.Errorf("the reason is %d bytes long: %q", len(reason), reason)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "a session ends with them", func(t *testing.T) attack.Outcome {
		up.sessions(t)
		err := do(t.Context(), t, c, client.StreamOptions{Stdout: &strings.Builder{}}, "rant")
		if err == nil {
			t.Fatal("the session ended well")
		}
		if text := err.Error(); len(text) > mostWords+200 || strings.ContainsRune(text, '\x1b') || !strings.HasSuffix(text, "no such file") {
			t.Errorf("the client is told %d bytes: %.300q", len(text), text)
		}
		return attack.Contained
	})
}

func TestWords(t *testing.T) {
	fit(t, "what is no UTF-8", words("create container: "+strings.Repeat("\x1b[2J\x00\xff\xfe é\u0085", 1<<16)+": no such file"))
	for _, same := range []string{"", "image not found", "line\n\tand é line", strings.Repeat("é", mostWords/2)} {
		if got := words(same); got != same {
			t.Errorf("words(%.40q) = %.40q", same, got)
		}
	}
	for shift := range 4 { // a cut within a character
		long := strings.Repeat("x", shift) + strings.Repeat("\U0001F980", mostWords)
		got := words(long)
		if len(got) > mostWords || strings.Contains(got, "?") || !strings.HasPrefix(got, long[:1000]) {
			t.Errorf("a cut at %d gives %d bytes, %.20q", shift, len(got), got)
		}
	}
	if got := words(strings.Repeat("\xff", mostWords*2)); len(got) > mostWords || !utf8.ValidString(got) {
		t.Errorf("no character at all: %d bytes", len(got))
	}
	if briefly(nil) != nil || status.Code(briefly(context.DeadlineExceeded)) != status.Code(context.DeadlineExceeded) || briefly(errors.New("plain")) == nil {
		t.Error("an error has another kind")
	}
}
