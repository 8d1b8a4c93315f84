package meter

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/sqlfile"
)

const thisBoot = "00000000-0000-0000-0000-000000000001"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memoryDir is a temporary folder in memory where there is such a file system: nothing waits for a disk in it.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "meter-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openLedger(t *testing.T) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), filepath.Join(memoryDir(t), "ledger ?#%.db"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// sample is a life that runs.
func sample(sandbox string) Life {
	return Life{Record: sandboxrecord.Record{
		Sandbox: sandbox, Cluster: "cls-00000001", Node: "host-1",
		Pod: sandboxrecord.Pod{Namespace: "shop", Name: "pod-" + sandbox, UID: "uid-" + sandbox, Workload: "Deployment/web", Spec: "1C2Gi", SpecType: "intel", Charge: "SPOT",
			Tags: map[string]string{"team": "a"}},
		BootID: thisBoot, QEMU: sandboxrecord.Process{PID: 12, Ticks: 345}, VMM: sandboxrecord.Process{PID: 11, Ticks: 344},
		Start: noon, StartBoot: 3450 * time.Millisecond,
	}}
}

// changed is a copy of a life with something else in it.
func changed(life Life, change func(*Life)) Life {
	life.Resizes = append([]sandboxrecord.Resize(nil), life.Resizes...)
	change(&life)
	return life
}

func mustPut(t *testing.T, l *Ledger, lives ...Life) []*Conflict {
	t.Helper()
	conflicts, err := l.Put(t.Context(), lives...)
	must(t, err)
	return conflicts
}

// all is everything in a ledger.
func all(t *testing.T, l *Ledger) []Life {
	t.Helper()
	found, err := lives(t.Context(), l.db, "")
	must(t, err)
	return found
}

func TestLifeIsAddedPieceByPiece(t *testing.T) {
	l := openLedger(t)
	start := sample("a")
	resized := changed(start, func(f *Life) { f.Resizes = []sandboxrecord.Resize{{At: time.Minute, Spec: "2C4Gi", SpecType: "intel"}} })
	ended := changed(resized, func(f *Life) { f.EndBoot = time.Hour + 1 })
	for _, life := range []Life{start, resized, ended} {
		for range 3 { // delivered again, it is no news
			if conflicts := mustPut(t, l, life, life); len(conflicts) > 0 {
				t.Fatal(conflicts[0])
			}
			if diff := cmp.Diff([]Life{life}, all(t, l)); diff != "" {
				t.Errorf("ledger (-want +got):\n%s", diff)
			}
		}
	}
	// Older news come late.
	mustPut(t, l, start, resized)
	whole := changed(ended, func(f *Life) { f.Sandbox = "b" })
	mustPut(t, l, whole)
	if diff := cmp.Diff([]Life{ended, whole}, all(t, l)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
	if running, err := l.Running(t.Context()); err != nil || len(running) > 0 {
		t.Errorf("Running = %v, %v", running, err)
	}
}

func TestContradictionsAreReportedAndNotWritten(t *testing.T) {
	resize := sandboxrecord.Resize{At: time.Minute, Spec: "2C4Gi", SpecType: "intel"}
	running := changed(sample("a"), func(f *Life) { f.Resizes = []sandboxrecord.Resize{resize} })
	ended := changed(running, func(f *Life) { f.EndBoot = time.Hour })
	estimated := changed(ended, func(f *Life) { f.Estimated = true })
	tests := []struct {
		name       string
		have, want Life
		reason     string
	}{
		{name: "another namespace", have: running, want: changed(running, func(f *Life) { f.Namespace = "other" }), reason: `"namespace":"other"`},
		{name: "another spec", have: running, want: changed(running, func(f *Life) { f.Spec = "2C4Gi" }), reason: `"spec":"2C4Gi"`},
		{name: "other tags", have: running, want: changed(running, func(f *Life) { f.Tags = nil }), reason: "tags"},
		{name: "another start", have: running, want: changed(running, func(f *Life) { f.StartBoot++ }), reason: "startBoot"},
		{name: "another wall clock", have: running, want: changed(running, func(f *Life) { f.Start = f.Start.Add(1) }), reason: "start"},
		{name: "another process", have: running, want: changed(running, func(f *Life) { f.QEMU.PID++ }), reason: "pid"},
		{name: "another resize", have: running, want: changed(running, func(f *Life) { f.Resizes[0].Spec = "4C8Gi" }), reason: "4C8Gi"},
		{name: "a resize after the end", have: ended, want: changed(running, func(f *Life) { f.Resizes[0].At *= 2 }), reason: "it ended 1h"},
		{name: "another end", have: ended, want: changed(ended, func(f *Life) { f.EndBoot++ }), reason: "it ended 1h"},
		{name: "an end after it was estimated", have: estimated, want: changed(ended, func(f *Life) { f.EndBoot++ }), reason: "estimated: true"},
		{name: "an end before what is known", have: running, want: changed(ended, func(f *Life) { f.Resizes, f.EndBoot = nil, time.Second*4 }), reason: "ended before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := openLedger(t)
			mustPut(t, l, tt.have)
			other := sample("other")
			conflicts := mustPut(t, l, tt.want, other)
			if len(conflicts) != 1 || conflicts[0].Sandbox != "a" || !strings.Contains(conflicts[0].Error(), tt.reason) {
				t.Errorf("conflicts = %v, want one about %q", conflicts, tt.reason)
			}
			if diff := cmp.Diff([]Life{tt.have, other}, all(t, l)); diff != "" {
				t.Errorf("ledger (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEstimates(t *testing.T) {
	l := openLedger(t)
	running := sample("a")
	mustPut(t, l, running)
	mustPut(t, l, changed(running, func(f *Life) { f.Resizes = []sandboxrecord.Resize{{At: time.Hour, Spec: "2C4Gi", SpecType: "intel"}} }))
	guess := changed(running, func(f *Life) { f.EndBoot, f.Estimated = time.Minute, true })
	if conflicts := mustPut(t, l, guess); len(conflicts) > 0 {
		t.Fatal(conflicts)
	}
	if got := all(t, l)[0]; got.EndBoot != time.Hour || !got.Estimated {
		t.Errorf("end = %v, want it not before the resize, which proves that it ran", got.EndBoot)
	}
	if conflicts := mustPut(t, l, changed(guess, func(f *Life) { f.EndBoot++ })); len(conflicts) > 0 {
		t.Errorf("a second guess is no contradiction: %v", conflicts)
	}
}

func TestResize(t *testing.T) {
	l := openLedger(t)
	mustPut(t, l, sample("a"))
	r := sandboxrecord.Resize{At: time.Hour, Spec: "2C4Gi", SpecType: "intel"}
	resized := func() Life { return changed(sample("a"), func(f *Life) { f.Resizes = []sandboxrecord.Resize{r} }) }
	for range 2 {
		if conflicts := mustPut(t, l, resized()); len(conflicts) > 0 {
			t.Fatal(conflicts)
		}
	}
	r.Spec = "4C8Gi"
	if conflicts := mustPut(t, l, resized()); len(conflicts) != 1 {
		t.Errorf("another spec at the same moment = %v, want a conflict", conflicts)
	}
	if got := all(t, l)[0].Resizes; len(got) != 1 || got[0].Spec != "2C4Gi" {
		t.Errorf("resizes = %v", got)
	}
}

// TestNobodyChangesARow opens the file as any program does, without the settings of this one.
func TestNobodyChangesARow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(t.Context(), file)
	must(t, err)
	life := changed(sample("a"), func(f *Life) {
		f.Resizes = []sandboxrecord.Resize{{At: time.Minute, Spec: "2C4Gi", SpecType: "intel"}}
		f.EndBoot = time.Hour
	})
	mustPut(t, l, life)
	must(t, l.Close())
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(file + suffix); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file+suffix, info.Mode())
		}
	}
	db, err := sql.Open("sqlite3", file)
	must(t, err)
	// What is not refused is ignored.
	for statement, refused := range map[string]bool{
		"UPDATE starts SET start_wall = 0": true, "DELETE FROM starts": true,
		"UPDATE resizes SET spec = ''": true, "DELETE FROM resizes": true,
		"UPDATE ends SET end_boot = 0": true, "DELETE FROM ends": true,
		"INSERT OR REPLACE INTO ends SELECT sandbox, end_boot + 1, end_wall, 0 FROM ends":                                        false,
		"INSERT OR REPLACE INTO resizes SELECT sandbox, at_boot, 'x', 'x' FROM resizes":                                          false,
		"REPLACE INTO starts (" + startColumns + ") SELECT " + strings.Replace(startColumns, "charge", "''", 1) + " FROM starts": false,
	} {
		if _, err := db.ExecContext(t.Context(), statement); (err != nil) != refused || refused && !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s = %v, want it to be refused: %t", statement, err, refused)
		}
	}
	must(t, db.Close())
	l, err = Open(t.Context(), file)
	must(t, err)
	defer l.Close()
	if diff := cmp.Diff([]Life{life}, all(t, l)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

func TestOpenRefusesOtherFiles(t *testing.T) {
	tests := []struct {
		name, statement string
		want            error
	}{
		{"of a newer program", "PRAGMA user_version = 99", sqlfile.ErrNewer},
		{"of another program", "PRAGMA application_id = 1; PRAGMA user_version = 1", sqlfile.ErrForeign},
		{"of a program that signs nothing", "PRAGMA application_id = 0; PRAGMA user_version = 0", sqlfile.ErrForeign},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ledger.db")
			l, err := Open(t.Context(), file)
			must(t, err)
			_, err = l.db.ExecContext(t.Context(), tt.statement)
			must(t, errors.Join(err, l.Close()))
			_, err = Open(t.Context(), file)
			if !errors.Is(err, tt.want) || len(hint.Of(err)) == 0 {
				t.Errorf("Open = %v, want %v and what to do", err, tt.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "ledger.db")
	must(t, os.WriteFile(file, []byte(strings.Repeat("no database", 1000)), 0o644))
	if _, err := Open(t.Context(), file); len(hint.Of(err)) == 0 {
		t.Errorf("Open of a text = %v", err)
	}
}

// TestSettings checks what a power cut would check.
func TestSettings(t *testing.T) {
	l := openLedger(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := l.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", pragma, got, err, want)
		}
	}
}

func TestAFailedPutAddsNothing(t *testing.T) {
	l := openLedger(t)
	wrong := changed(sample("b"), func(f *Life) { f.EndBoot = 1 })
	if _, err := l.Put(t.Context(), sample("a"), wrong); err == nil || !strings.Contains(err.Error(), "sandbox b") {
		t.Errorf("Put = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Put(ctx, sample("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Put without time = %v", err)
	}
	if got := all(t, l); len(got) > 0 {
		t.Errorf("ledger = %v", got)
	}
}

func TestUsages(t *testing.T) {
	l := openLedger(t)
	at := func(minutes int) time.Duration { return 3450*time.Millisecond + time.Duration(minutes)*time.Minute }
	life := func(id, namespace string, start, end int) Life {
		return changed(sample(id), func(f *Life) {
			f.Namespace, f.Start, f.StartBoot = namespace, noon.Add(time.Duration(start)*time.Minute), at(start)
			if end >= 0 {
				f.EndBoot = at(end)
			}
		})
	}
	resized := changed(life("resized", "shop", 0, 30), func(f *Life) {
		f.Estimated = true
		f.Resizes = []sandboxrecord.Resize{{At: at(10), Spec: "2C4Gi", SpecType: "intel"}, {At: at(20), Spec: "8C40Gi 1×V100", SpecType: "V100"}}
	})
	nameless := life("nameless", "", 5, 6)
	nameless.Pod, nameless.Node = sandboxrecord.Pod{}, ""
	odd := life("odd", "shop", 50, 60)
	odd.Spec = "lots"
	mustPut(t, l, life("short", "shop", 0, 10), life("running", "bank", 15, -1), life("instant", "bank", 40, 40), resized, nameless, odd)
	minute := func(m int) time.Time {
		if m < 0 {
			return time.Time{}
		}
		return noon.Add(time.Duration(m) * time.Minute)
	}
	every := []string{"resized#0 0-10 1C2Gi", "short#0 0-10 1C2Gi", "nameless#0 5-6 unsized", "resized#1 10-20 2C4Gi", "running#0 15- 1C2Gi",
		"resized#2 20-30? 8C40Gi 1×V100", "instant#0 40-40 1C2Gi", "odd#0 50-60 unsized"}
	tests := []struct {
		name     string
		from, to int
		filter   Filter
		want     []string
	}{
		{name: "everything", from: -1, to: -1, want: every},
		{name: "the ends of a window", from: 10, to: 15, want: every[3:4]},
		{name: "a window in a life", from: 11, to: 12, want: every[3:4]},
		{name: "a moment without length", from: 40, to: 41, want: []string{every[4], every[6]}},
		{name: "before all", from: -1, to: 0},
		{name: "one that runs has no end", from: 1000, to: -1, want: every[4:5]},
		{name: "of a namespace", from: -1, to: -1, filter: Filter{Namespaces: []string{"bank"}}, want: []string{every[4], every[6]}},
		{name: "of namespaces", from: 0, to: 6, filter: Filter{Namespaces: []string{"", "bank"}}, want: every[2:3]},
		{name: "of no namespace", from: -1, to: -1, filter: Filter{Namespaces: []string{}}},
		{name: "of a namespace with an odd name", from: -1, to: -1, filter: Filter{Namespaces: []string{`x"]') OR 1 --`}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			usages, err := l.Usages(t.Context(), minute(tt.from), minute(tt.to), tt.filter)
			must(t, err)
			var got []string
			slices.SortFunc(usages, func(a, b Usage) int {
				if c := a.Start.Compare(b.Start); c != 0 {
					return c
				}
				if c := strings.Compare(a.Sandbox, b.Sandbox); c != 0 {
					return c
				}
				return a.Stretch - b.Stretch
			})
			for _, u := range usages {
				end := ""
				if !u.End.IsZero() {
					end = fmt.Sprint(u.End.Sub(noon).Minutes())
				}
				if u.Estimated {
					end += "?"
				}
				got = append(got, fmt.Sprintf("%s#%d %v-%s %s", u.Sandbox, u.Stretch, u.Start.Sub(noon).Minutes(), end, u.specText()))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("usages (-want +got):\n%s", diff)
			}
		})
	}
	usages, err := l.Usages(t.Context(), minute(0), minute(1), Filter{})
	must(t, err)
	want := Usage{
		Sandbox: "short", Cluster: "cls-00000001", Namespace: "shop", Pod: "pod-short", PodUID: "uid-short", Workload: "Deployment/web", Node: "host-1",
		Spec: podsize.Size{Type: "intel", CPU: 1000, Memory: 2 * podsize.Gi}, Charge: "SPOT", Tags: map[string]string{"team": "a"},
		Start: noon, End: minute(10), BootID: thisBoot, StartBoot: at(0),
	}
	if diff := cmp.Diff(want, usages[1]); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestUntil(t *testing.T) {
	u := Usage{Start: noon, BootID: thisBoot, StartBoot: time.Minute}
	now := Instant{Wall: noon.Add(25 * time.Hour), BootID: thisBoot, Boot: 61 * time.Minute} // somebody set the clock
	if got := u.Until(now); got != time.Hour {
		t.Errorf("on this host it ran for %v, want an hour whatever the wall clock says", got)
	}
	now.BootID = "another"
	if got := u.Until(now); got != 25*time.Hour {
		t.Errorf("on another host it ran for %v", got)
	}
	now.Wall = noon.Add(-time.Hour)
	if got := u.Until(now); got != 0 {
		t.Errorf("before its start it ran for %v", got)
	}
	u.End = noon.Add(3)
	if got := u.Until(now); got != 3 {
		t.Errorf("ended, it ran for %v", got)
	}
}
