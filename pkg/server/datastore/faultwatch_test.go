package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/nodeless/nodeless/pkg/hint"
)

func TestFaultWatch(t *testing.T) {
	var log bytes.Buffer
	ctx, fail := context.WithCancelCause(t.Context())
	w := &faultWatch{file: "/x/state.db", log: slog.New(slog.NewTextHandler(&log, nil)), fail: fail}
	full := fmt.Errorf("commit: %w", sqlite3.Error{Code: sqlite3.ErrFull})
	for _, step := range []struct {
		err   error
		wrote bool
	}{{full, true}, {full, true}, {nil, false}, {errors.New("key exists"), true}, {nil, true}, {nil, true}} {
		w.look(step.err, step.wrote)
	}
	if n := strings.Count(log.String(), "cannot be written"); n != 1 {
		t.Errorf("told %d times that it is full, want once:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "can be written again"); n != 1 {
		t.Errorf("told %d times that it is over, want once:\n%s", n, log.String())
	}
	if ctx.Err() != nil {
		t.Fatalf("a full disk ended the process: %v", context.Cause(ctx))
	}
	w.look(sqlite3.Error{Code: sqlite3.ErrCorrupt}, false)
	if err := context.Cause(ctx); !errors.Is(err, ErrDamaged) || len(hint.Of(err)) == 0 {
		t.Errorf("after damage: %v, want ErrDamaged with a hint", err)
	}
}

func TestUnusableLogs(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		want walReport
	}{
		{name: "none"},
		{name: "a stump", data: make([]byte, 20), want: walReport{BadHeader: true}},
		{name: "zeroes", data: make([]byte, 32+2*(24+4096)), want: walReport{BadHeader: true, Lost: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseWAL(tt.data); got != tt.want || got.whole() == got.BadHeader {
				t.Errorf("parseWAL = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestOnlyTheFileIsToBlame: what hinders SQLite from reading must not send the server back to a snapshot.
func TestOnlyTheFileIsToBlame(t *testing.T) {
	dir := t.TempDir()
	if err := verify(t.Context(), filepath.Join(dir, "no", "such", "folder"), "integrity_check"); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a file that cannot be opened: %v, want an error that is not ErrDamaged", err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("?"), 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verify(t.Context(), garbage, "integrity_check"); !errors.Is(err, ErrDamaged) {
		t.Errorf("garbage: %v, want ErrDamaged", err)
	}
}
