package meter

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
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// world is a host whose time and processes are the test's, with a folder and a ledger.
type world struct {
	t      *testing.T
	dir    sandboxrecord.Dir
	ledger *Ledger
	now    Instant
	proc   fstest.MapFS
	pids   int
	c      *Collector
	logged bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: sandboxrecord.Dir(filepath.Join(memoryDir(t), "lifespans")), ledger: openLedger(t), proc: fstest.MapFS{},
		now: Instant{Wall: noon, BootID: thisBoot, Boot: 1000 * time.Second},
	}
	w.restart()
	return w
}

// restart is a new process: it knows nothing.
func (w *world) restart() {
	w.c = NewCollector(Config{Dir: w.dir, Clock: func() Instant { return w.now }, Proc: w.proc}, w.ledger, slog.New(slog.NewTextHandler(&w.logged, nil)))
}

func (w *world) pass(d time.Duration) { w.now.Wall, w.now.Boot = w.now.Wall.Add(d), w.now.Boot+d }

func (w *world) spawn() sandboxrecord.Process {
	w.pids++
	p := sandboxrecord.Process{PID: 100 + w.pids, Ticks: int64(w.now.Boot / sandboxrecord.Tick)}
	w.proc[fmt.Sprintf("%d/stat", p.PID)] = &fstest.MapFile{Data: fmt.Appendf(nil, "%d (qemu) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0", p.PID, p.Ticks)}
	return p
}

func (w *world) kill(p sandboxrecord.Process) { delete(w.proc, fmt.Sprintf("%d/stat", p.PID)) }

// start is what nodeless-vmm does when QEMU has started.
func (w *world) start(sandbox string) sandboxrecord.Record {
	w.t.Helper()
	r := sample(sandbox).Record
	r.VMM, r.QEMU, r.BootID = w.spawn(), w.spawn(), w.now.BootID
	r.StartBoot = r.QEMU.Boot()
	r.Start = w.now.Wall.Add(r.StartBoot - w.now.Boot)
	must(w.t, w.dir.Write(r))
	must(w.t, w.dir.Heartbeat(sandbox, r.StartBoot))
	return r
}

// end is what it does when QEMU has ended. It returns the life as the ledger should have it.
func (w *world) end(r sandboxrecord.Record) Life {
	w.t.Helper()
	w.kill(r.QEMU)
	r.EndBoot = w.now.Boot
	must(w.t, w.dir.Heartbeat(r.Sandbox, r.EndBoot))
	must(w.t, w.dir.Write(r))
	w.kill(r.VMM)
	return Life{Record: r}
}

// crash ends both processes without a word.
func (w *world) crash(r sandboxrecord.Record) {
	w.kill(r.QEMU)
	w.kill(r.VMM)
}

func (w *world) scan() {
	w.t.Helper()
	must(w.t, w.c.scan(w.t.Context()))
}

// want compares the ledger and what the folder still holds.
func (w *world) want(files []string, lives ...Life) {
	w.t.Helper()
	if diff := cmp.Diff(lives, all(w.t, w.ledger)); diff != "" {
		w.t.Errorf("ledger (-want +got):\n%s", diff)
	}
	var left []string
	entries, err := os.ReadDir(string(w.dir))
	must(w.t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff(files, left); diff != "" {
		w.t.Errorf("folder (-want +got):\n%s", diff)
	}
}

func TestNormalLife(t *testing.T) {
	w := newWorld(t)
	w.scan() // makes the folder
	w.want(nil)
	r := w.start("a")
	w.scan()
	w.want([]string{"a.beat", "a.json"}, Life{Record: r})
	for range 3 {
		w.pass(time.Second)
		w.scan()
	}
	w.pass(1)
	life := w.end(r)
	w.scan()
	w.want(nil, life)
	w.restart()
	w.scan()
	w.want(nil, life)
}

func TestWholeLifeBetweenTwoScans(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.pass(time.Millisecond)
	life := w.end(r)
	w.scan()
	w.want(nil, life)
}

// TestSettingTheClockChangesNoDuration: the usage is as long as BOOTTIME says, whatever happens to the wall clock.
func TestSettingTheClockChangesNoDuration(t *testing.T) {
	for _, jump := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprint(jump, running), func(t *testing.T) {
				w := newWorld(t)
				r := w.start("a")
				w.scan()
				w.now.Wall = w.now.Wall.Add(jump)
				w.pass(time.Minute)
				if !running {
					w.end(r)
				}
				w.scan()
				usages, err := w.ledger.Usages(t.Context(), time.Time{}, time.Time{}, Filter{})
				must(t, err)
				if len(usages) != 1 || usages[0].Until(w.now) != time.Minute || !usages[0].Start.Equal(noon) {
					t.Errorf("usages = %+v, want one minute from noon on", usages)
				}
			})
		}
	}
}

func TestNobodySawTheEnd(t *testing.T) {
	second := time.Second
	tests := []struct {
		name string
		// happen is what happens to a sandbox after it started and was seen for ten seconds.
		happen func(w *world, r sandboxrecord.Record)
		end    time.Duration // after the start
		logged string
	}{
		{name: "it is seen until it dies", happen: func(w *world, r sandboxrecord.Record) { w.crash(r) }, end: 10 * second},
		{name: "it had a heartbeat after it was seen", happen: func(w *world, r sandboxrecord.Record) {
			w.pass(5 * second)
			must(w.t, w.dir.Heartbeat("a", w.now.Boot))
			w.crash(r)
		}, end: 15 * second},
		{name: "nobody watches and it has no beat", happen: func(w *world, r sandboxrecord.Record) {
			must(w.t, os.Remove(filepath.Join(string(w.dir), "a.beat")))
			w.crash(r)
			w.restart()
		}, end: 0},
		{name: "its last heartbeat is torn", happen: func(w *world, r sandboxrecord.Record) {
			must(w.t, os.WriteFile(filepath.Join(string(w.dir), "a.beat"), make([]byte, 20), 0o600))
			w.crash(r)
		}, end: 10 * second, logged: "last sign of a microVM cannot be read"},
		{name: "its last heartbeat is of the future", happen: func(w *world, r sandboxrecord.Record) {
			must(w.t, w.dir.Heartbeat("a", w.now.Boot+time.Hour))
			w.crash(r)
		}, end: 10 * second, logged: "of the future"},
		{name: "the host is booted again", happen: func(w *world, r sandboxrecord.Record) {
			w.pass(7 * second)
			must(w.t, w.dir.Heartbeat("a", w.now.Boot))
			w.now.BootID, w.now.Boot = "00000000-0000-0000-0000-000000000002", 5*second // its pids are in use again
			w.restart()
		}, end: 17 * second},
		{name: "the pid is used again", happen: func(w *world, r sandboxrecord.Record) {
			w.crash(r)
			for _, p := range []sandboxrecord.Process{r.QEMU, r.VMM} {
				w.proc[fmt.Sprintf("%d/stat", p.PID)] = &fstest.MapFile{Data: fmt.Appendf(nil, "%d (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0", p.PID, p.Ticks+1)}
			}
		}, end: 10 * second},
		{name: "QEMU is a zombie of a nodeless-vmm that has ended", happen: func(w *world, r sandboxrecord.Record) {
			f := w.proc[fmt.Sprintf("%d/stat", r.QEMU.PID)]
			f.Data = bytes.Replace(f.Data, []byte(") S"), []byte(") Z"), 1)
			w.kill(r.VMM)
		}, end: 10 * second},
		{name: "the record is deleted, then it dies", happen: func(w *world, r sandboxrecord.Record) {
			must(w.t, w.dir.Remove("a"))
			w.pass(second)
			w.scan()
			w.crash(r)
		}, end: 11 * second, logged: "record of a running microVM is gone"},
		{name: "record and Collector go, and it dies", happen: func(w *world, r sandboxrecord.Record) {
			must(w.t, w.dir.Remove("a"))
			w.crash(r)
			w.restart()
		}, end: 0},
		{name: "a nodeless-vmm hangs", happen: func(w *world, r sandboxrecord.Record) {
			w.kill(r.QEMU)
			for range int(patience / second) {
				w.scan()
				w.pass(second)
			}
			if got := all(w.t, w.ledger); got[0].EndBoot != 0 {
				w.t.Error("it was not waited for")
			}
		}, end: 10 * second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start("a")
			for range 11 {
				w.scan()
				w.pass(second)
			}
			w.pass(-second)
			tt.happen(w, r)
			w.pass(second)
			w.scan()
			w.want(nil, Life{Record: changed(Life{Record: r}, func(f *Life) { f.EndBoot = r.StartBoot + tt.end }).Record, Estimated: true})
			if log := w.logged.String(); !strings.Contains(log, "nobody saw a microVM end") || !strings.Contains(log, tt.logged) {
				t.Errorf("log lacks %q:\n%s", tt.logged, log)
			}
		})
	}
}

// TestAHeartbeatDuringAScan: what lives on and dies while a slow scan is at work has lived that long.
func TestAHeartbeatDuringAScan(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	looked := false
	w.c.cfg.Clock = func() Instant {
		now := w.now
		if !looked {
			looked = true
			w.pass(5 * time.Second)
			must(t, w.dir.Heartbeat("a", w.now.Boot))
			w.crash(r)
		}
		return now
	}
	w.scan()
	w.want(nil, Life{Record: changed(Life{Record: r}, func(f *Life) { f.EndBoot = r.StartBoot + 5*time.Second }).Record, Estimated: true})
	if strings.Contains(w.logged.String(), "of the future") {
		t.Errorf("a heartbeat of the present is said to be of the future:\n%s", &w.logged)
	}
}

// TestASlowNodelessVMMIsWaitedFor: on a slow disk the end is written long after QEMU has ended.
func TestASlowNodelessVMMIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	w.pass(time.Second)
	ended := w.now.Boot
	w.kill(r.QEMU)
	for range 30 {
		w.pass(time.Second)
		w.scan()
	}
	r.EndBoot = ended
	must(t, w.dir.Write(r))
	w.scan()
	w.want(nil, Life{Record: r})
}

// lateReader is a folder in which the nodeless-vmm writes its last record between the look at the folder and the one at it.
type lateReader struct {
	folder
	write func()
}

func (f lateReader) ReadAll() (sandboxrecord.Contents, error) {
	defer f.write()
	return f.folder.ReadAll()
}

func TestTheEndIsWrittenAsTheFolderIsRead(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	w.pass(time.Second)
	var life Life
	w.c.folder = lateReader{w.dir, func() { life = w.end(r) }}
	w.scan()
	w.want(nil, life)
}

func TestDeletedRecordIsWrittenAgain(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	must(t, os.RemoveAll(string(w.dir)))
	for range 3 {
		w.pass(time.Second)
		w.scan()
	}
	if n := strings.Count(w.logged.String(), "record of a running microVM is gone"); n != 1 {
		t.Errorf("it is logged %d times that the record is gone", n)
	}
	life := w.end(r)
	w.scan()
	w.want(nil, life)
}

func TestResizes(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	for _, s := range []string{"2C4Gi", "4C8Gi"} {
		w.pass(time.Minute)
		r.Resizes = append(r.Resizes, sandboxrecord.Resize{At: w.now.Boot, Spec: s, SpecType: "intel"})
		must(t, w.dir.Write(r))
		w.scan()
	}
	w.pass(time.Minute)
	life := w.end(r)
	w.scan()
	w.want(nil, life)
	usages, err := w.ledger.Usages(t.Context(), time.Time{}, time.Time{}, Filter{})
	must(t, err)
	for i, u := range usages {
		if u.Stretch != i || u.Spec.CPU != 1000<<i || u.Until(w.now) != time.Minute {
			t.Errorf("usage %d = %+v, want a minute each of 1, 2 and 4 cores", i, u)
		}
	}
}

func TestOddFiles(t *testing.T) {
	w := newWorld(t)
	running := w.start("a")
	w.scan()
	write := func(name, content string) {
		must(t, os.WriteFile(filepath.Join(string(w.dir), name), []byte(content), 0o600))
	}
	write("bad.json", "{")
	write("bad.beat", "kept for whoever looks into it")
	write("stray.beat", "of no record")
	write("note.txt", "is not ours")
	w.scan()
	w.want([]string{"a.beat", "a.json", "bad.beat", "bad.json.bad", "note.txt"}, Life{Record: running})
	if log := w.logged.String(); !strings.Contains(log, "bad.json.bad") || !strings.Contains(log, "look into the file") {
		t.Errorf("log does not say what to do:\n%s", log)
	}
	write("a.json", "{") // of one that runs: its nodeless-vmm writes it whole again
	w.scan()
	w.pass(time.Second)
	life := w.end(running)
	w.scan()
	w.want([]string{"a.json.bad", "bad.beat", "bad.json.bad", "note.txt"}, life)
}

func TestContradictingRecordIsSetAside(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.pass(time.Second)
	life := w.end(r)
	w.scan()
	w.pass(time.Second)
	w.end(r) // again, later
	w.scan()
	w.want([]string{"a.beat", "a.json.bad"}, life)
	if log := w.logged.String(); !strings.Contains(log, "contradicts the ledger") || !strings.Contains(log, "it ended") {
		t.Errorf("log:\n%s", log)
	}
}

func TestUnsizedIsRecordedAndLogged(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	r.Pod = sandboxrecord.Pod{}
	must(t, w.dir.Write(r))
	w.scan()
	w.scan()
	w.pass(time.Hour)
	w.end(r)
	w.scan()
	usages, err := w.ledger.Usages(t.Context(), time.Time{}, time.Time{}, Filter{})
	must(t, err)
	if len(usages) != 1 || !usages[0].Unsized() || usages[0].Until(w.now) != time.Hour {
		t.Errorf("usages = %+v, want an hour without a spec", usages)
	}
	if n := strings.Count(w.logged.String(), "has no spec"); n != 1 {
		t.Errorf("it is logged %d times that there is no spec", n)
	}
}

// broken are a ledger and a folder that fail.
type broken struct {
	ledger
	folder
	put, remove error
}

func (b *broken) Put(ctx context.Context, lives ...Life) ([]*Conflict, error) {
	if b.put != nil {
		return nil, b.put
	}
	return b.ledger.Put(ctx, lives...)
}

func (b *broken) Remove(sandbox string) error {
	if b.remove != nil {
		return b.remove
	}
	return b.folder.Remove(sandbox)
}

func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	full := errors.New("database or disk is full")
	b := &broken{ledger: w.ledger, folder: w.dir, put: full}
	w.c.ledger, w.c.folder = b, b
	r := w.start("a")
	for range 90 { // seconds
		err := w.c.scan(t.Context())
		if !errors.Is(err, full) {
			t.Fatalf("scan = %v", err)
		}
		w.c.complain(err)
		w.pass(time.Second)
	}
	life := w.end(r)
	w.c.complain(w.c.scan(t.Context()))
	w.want([]string{"a.beat", "a.json"})
	if n := strings.Count(w.logged.String(), "level=ERROR"); n != 2 {
		t.Errorf("a fault that stays is logged %d times in 90 s, want 2", n)
	}
	b.put, b.remove = nil, errors.New("read-only file system")
	for range 3 {
		if err := w.c.scan(t.Context()); !errors.Is(err, b.remove) {
			t.Errorf("scan = %v", err)
		}
	}
	b.remove = nil
	w.c.complain(w.c.scan(t.Context()))
	w.want(nil, life)
	if !strings.Contains(w.logged.String(), "recorded again") {
		t.Error("the end of the fault is not logged")
	}
}

func TestAProcessThatCannotBeReadIsNoneThatHasEnded(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	path := fmt.Sprintf("%d/stat", r.QEMU.PID)
	stat := w.proc[path]
	w.proc[path] = &fstest.MapFile{Data: []byte("?")}
	w.kill(r.VMM)
	if err := w.c.scan(t.Context()); err == nil {
		t.Error("scan says nothing")
	}
	w.proc[path] = stat
	w.scan()
	w.want([]string{"a.beat", "a.json"}, Life{Record: r})
}

func TestRun(t *testing.T) {
	if err := NewCollector(Config{Interval: -1}, nil, slog.New(slog.DiscardHandler)).Run(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "folder") || !strings.Contains(err.Error(), "clock") || !strings.Contains(err.Error(), "interval") {
		t.Errorf("Run without a configuration = %v, want every fault", err)
	}
	w := newWorld(t)
	life := w.end(w.start("a"))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.c.Run(ctx) }()
	must(t, w.c.Ready(t.Context()))
	w.want(nil, life)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil when it was asked to end", err)
	}
	unready := NewCollector(Config{}, nil, slog.New(slog.DiscardHandler))
	if err := unready.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Ready without Run = %v", err)
	}
}

func TestSystemClock(t *testing.T) {
	clock, err := SystemClock()
	must(t, err)
	a, b := clock(), clock()
	if b.Boot < a.Boot || a.Boot <= 0 || a.BootID == "" || time.Since(a.Wall) > time.Hour {
		t.Errorf("%+v, then %+v", a, b)
	}
	p, alive, err := sandboxrecord.Find(os.DirFS("/proc"), os.Getpid())
	if age := a.Boot - p.Boot(); !alive || err != nil || age < 0 || age > time.Hour {
		t.Errorf("this process is %v old: its start and the clock count differently", age)
	}
}

// TestWhatRunsIsNoted: the ledger is told each minute what was seen to run, so that whoever reads it elsewhere, and the next Collector,
// know; with the end it is forgotten.
func TestWhatRunsIsNoted(t *testing.T) {
	w := newWorld(t)
	r := w.start("a")
	w.scan()
	for range 5 {
		w.pass(40 * time.Second)
		w.scan()
	}
	usages, err := w.ledger.Usages(t.Context(), time.Time{}, time.Time{}, Filter{})
	must(t, err)
	if ran := usages[0].Seen.Sub(usages[0].Start); ran < w.now.Boot-r.StartBoot-noting || ran > w.now.Boot-r.StartBoot {
		t.Errorf("the ledger has it run for %v, it did for %v", ran, w.now.Boot-r.StartBoot)
	}
	noted := usages[0].Seen.Sub(usages[0].Start)
	must(t, os.Remove(filepath.Join(string(w.dir), "a.beat")))
	w.crash(r)
	w.restart()
	w.pass(2 * patience)
	w.scan()
	life := all(t, w.ledger)[0]
	if !life.Estimated || life.EndBoot-life.StartBoot != noted || life.Seen != 0 {
		t.Errorf("without a heartbeat it ran for %v (estimated: %t, seen: %v), the ledger had noted %v", life.EndBoot-life.StartBoot, life.Estimated, life.Seen, noted)
	}
}
