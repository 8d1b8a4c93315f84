package meter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

var errFault = errors.New("injected")

// faulty counts what the Collector does to ledger and folder, and stops it at one point: before an operation or after it.
type faulty struct {
	ledger ledger
	folder folder
	at     int // the point
	points int // those passed
	hit    bool
	die    bool // as if killed; else the operation gives an error
}

// point returns errFault, or panics with it, at the point that was asked for.
func (f *faulty) point() error {
	f.points++
	if f.hit || f.points != f.at {
		return nil
	}
	f.hit = true
	if f.die {
		panic(errFault)
	}
	return errFault
}

// around has a point before and after an operation.
func (f *faulty) around(operation func() error) error {
	if err := f.point(); err != nil {
		return err
	}
	if err := operation(); err != nil {
		return err
	}
	return f.point()
}

func (f *faulty) Put(ctx context.Context, lives ...Life) (conflicts []*Conflict, err error) {
	return conflicts, f.around(func() error { conflicts, err = f.ledger.Put(ctx, lives...); return err })
}

func (f *faulty) Running(ctx context.Context) (found []Life, err error) {
	return found, f.around(func() error { found, err = f.ledger.Running(ctx); return err })
}

func (f *faulty) Saw(ctx context.Context, seen map[string]time.Duration) error {
	return f.around(func() error { return f.ledger.Saw(ctx, seen) })
}

func (f *faulty) Make() error { return f.around(f.folder.Make) }

func (f *faulty) ReadAll() (c sandboxrecord.Contents, err error) {
	return c, f.around(func() error { c, err = f.folder.ReadAll(); return err })
}

func (f *faulty) Read(sandbox string) (r sandboxrecord.Record, err error) {
	return r, f.around(func() error { r, err = f.folder.Read(sandbox); return err })
}

func (f *faulty) LastHeartbeat(sandbox string) (d time.Duration, err error) {
	return d, f.around(func() error { d, err = f.folder.LastHeartbeat(sandbox); return err })
}

// Remove can also be stopped in the middle.
func (f *faulty) Remove(sandbox string) error {
	return f.around(func() error {
		if err := os.Remove(filepath.Join(string(f.folder.(sandboxrecord.Dir)), sandbox+".beat")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := f.point(); err != nil {
			return err
		}
		return f.folder.Remove(sandbox)
	})
}

func (f *faulty) SetAside(sandbox string) (to string, err error) {
	return to, f.around(func() error { to, err = f.folder.SetAside(sandbox); return err })
}

func (f *faulty) RemoveUnfinished(now time.Time) error {
	return f.around(func() error { return f.folder.RemoveUnfinished(now) })
}

// try scans once. A Collector that dies in it is followed by another.
func (f *faulty) try(w *world) {
	defer func() {
		if r := recover(); r != nil {
			if r != error(errFault) {
				panic(r)
			}
			w.restart()
		}
		w.c.ledger, w.c.folder = f, f
	}()
	w.c.ledger, w.c.folder = f, f
	if err := w.c.scan(w.t.Context()); err != nil && !errors.Is(err, errFault) {
		w.t.Errorf("scan = %v", err)
	}
}

// lifetimes plays every kind of life, with a scan after each step, and returns what the ledger must have in the end.
func lifetimes(w *world, scan func()) []Life {
	step := func(d time.Duration) {
		scan()
		w.pass(d)
	}
	step(time.Second)
	normal := w.start("normal")
	old := w.start("oldboot")
	step(time.Second)
	resized := w.start("resized")
	dies, deleted := w.start("dies"), w.start("deleted")
	step(time.Second)
	resized.Resizes = []sandboxrecord.Resize{{At: w.now.Boot, Spec: "2C4Gi", SpecType: "intel"}}
	must(w.t, w.dir.Write(resized))
	must(w.t, os.WriteFile(filepath.Join(string(w.dir), "bad.json"), []byte("{"), 0o600))
	step(time.Second)
	lives := []Life{w.end(normal)}
	must(w.t, os.Remove(filepath.Join(string(w.dir), "deleted.json")))
	for _, r := range []sandboxrecord.Record{old, dies, deleted} {
		must(w.t, w.dir.Heartbeat(r.Sandbox, w.now.Boot))
		r.EndBoot = w.now.Boot
		lives = append(lives, Life{Record: r, Estimated: true})
	}
	w.crash(dies)
	w.crash(deleted)
	whole := w.start("whole")
	w.pass(1)
	lives = append(lives, w.end(whole), w.end(resized))
	step(time.Second)
	w.now.BootID, w.now.Boot = "00000000-0000-0000-0000-000000000002", 5*time.Second
	w.restart()
	step(time.Second)
	lives = append(lives, w.end(w.start("last")))
	for range 3 {
		step(time.Second)
	}
	return lives
}

// TestCrashAtEveryPoint stops the Collector before and after each thing it does, in both ways, and compares the ledger and
// the folder in the end with those of a Collector that nothing happened to.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, die := range []bool{true, false} {
		t.Run(fmt.Sprintf("killed=%t", die), func(t *testing.T) {
			points := 0
			for at := 0; ; at++ {
				w := newWorld(t)
				f := &faulty{ledger: w.ledger, folder: w.dir, at: at, die: die}
				wanted := lifetimes(w, func() { f.try(w) })
				if diff := cmp.Diff(byID(wanted), byID(all(t, w.ledger))); diff != "" {
					t.Fatalf("ledger after a fault at point %d (-want +got):\n%s", at, diff)
				}
				entries, err := os.ReadDir(string(w.dir))
				if err != nil || len(entries) != 1 || entries[0].Name() != "bad.json.bad" {
					t.Fatalf("folder after a fault at point %d: %v, %v, want the bad file alone", at, entries, err)
				}
				must(t, w.ledger.Close())
				if at > 0 && !f.hit {
					points = at - 1
					break
				}
			}
			if points < 50 {
				t.Errorf("there are %d points only: does the Collector go around them?", points)
			}
			t.Logf("%d points", points)
		})
	}
}

func byID(lives []Life) map[string]Life {
	m := map[string]Life{}
	for _, l := range lives {
		m[l.Sandbox] = l
	}
	return m
}
