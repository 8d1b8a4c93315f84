package hint_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/hint"
)

func TestOfFindsRemediesDeepestFirst(t *testing.T) {
	deep := &hint.Error{Op: "open", On: "/dev/kvm", Err: fs.ErrPermission, Do: "run as root"}
	outer := &hint.Error{Op: "start", Err: fmt.Errorf("vmm: %w", deep), Do: "run `nodeless check`"}
	joined := errors.Join(errors.New("plain"), outer, deep)

	if diff := cmp.Diff([]string{"run as root", "run `nodeless check`"}, hint.Of(joined)); diff != "" {
		t.Errorf("Of (-want +got):\n%s", diff)
	}
	if got := hint.Of(errors.New("plain")); got != nil {
		t.Errorf("Of(plain) = %q, want none", got)
	}
	if !errors.Is(joined, fs.ErrPermission) {
		t.Error("the cause is lost")
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		name string
		err  hint.Error
		want string
	}{
		{name: "all parts", err: hint.Error{Op: "open", On: "/x", Err: errors.New("denied")}, want: "open /x: denied"},
		{name: "no object", err: hint.Error{Op: "start", Err: errors.New("denied")}, want: "start: denied"},
		{name: "no cause", err: hint.Error{Op: "not root"}, want: "not root"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.err.Error(); got != tt.want {
				t.Errorf("Error() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	words := []string{"data-dir", "run-dir", "disable", "tls-san"}
	for word, want := range map[string]string{"data-dri": "data-dir", "datadir": "data-dir", "tlssan": "tls-san", "zzz": "", "rundir": "run-dir"} {
		if got := hint.Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
