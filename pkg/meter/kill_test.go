package meter

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// collectorEnv makes the test binary a Collector, on the folder that it names, until it is killed.
const collectorEnv = "NODELESS_TEST_COLLECTOR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(collectorEnv); dir != "" {
		fmt.Fprintln(os.Stderr, collect(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func collect(dir string) error {
	ledger, err := Open(context.Background(), filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	clock, err := SystemClock()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return NewCollector(Config{Dir: sandboxrecord.Dir(filepath.Join(dir, "lifespans")), Clock: clock, Interval: time.Millisecond}, ledger, log).Run(context.Background())
}

// liver lives lives of real processes and writes them down as nodeless-vmm does.
type liver struct {
	t     *testing.T
	dir   sandboxrecord.Dir
	clock Clock
	self  sandboxrecord.Process

	mu    sync.Mutex
	lives map[string]Life // as the ledger must have them; guarded by mu
	// latest is when each of those that nobody watched had ended for sure; guarded by mu
	latest map[string]time.Duration
}

// live is one life. A crashing one ends without a word, together with what writes its record.
func (l *liver) live(sandbox string, length time.Duration, crashes bool) error {
	seconds := length.Seconds()
	if crashes { // it is killed, after its heartbeat: both are said to be of one process
		seconds = 3600
	}
	qemu := exec.Command("sleep", fmt.Sprint(seconds))
	if err := qemu.Start(); err != nil {
		return err
	}
	p, _, err := sandboxrecord.Find(os.DirFS("/proc"), qemu.Process.Pid)
	if err != nil {
		return err
	}
	now := l.clock()
	r := sample(sandbox).Record
	r.BootID, r.QEMU, r.VMM, r.StartBoot = now.BootID, p, l.self, p.Boot()
	r.Start = time.Unix(0, now.Wall.Add(p.Boot()-now.Boot).UnixNano()).UTC()
	if crashes {
		r.VMM = p
	}
	if err := l.dir.Write(r); err != nil {
		return err
	}
	heartbeat := l.clock().Boot
	if err := l.dir.Heartbeat(sandbox, heartbeat); err != nil {
		return err
	}
	if crashes {
		<-time.After(length)
		if err := qemu.Process.Kill(); err != nil {
			return err
		}
	}
	if err := qemu.Wait(); err != nil && !crashes {
		return err
	}
	end := l.clock().Boot
	r.EndBoot = end
	if crashes {
		r.EndBoot = heartbeat
	} else if err := l.dir.Write(r); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lives[sandbox] = Life{Record: r, Estimated: crashes}
	if crashes {
		l.latest[sandbox] = end
	}
	return nil
}

// TestKillAtRandom kills a Collector a hundred times as lives begin and end. Whatever it was at: each life is in the ledger
// once and as long as it was, to the nanosecond.
func TestKillAtRandom(t *testing.T) {
	const kills, lives = 120, 200
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	clock, err := SystemClock()
	must(t, err)
	self, _, err := sandboxrecord.Find(os.DirFS("/proc"), os.Getpid())
	must(t, err)
	l := &liver{t: t, dir: sandboxrecord.Dir(filepath.Join(dir, "lifespans")), clock: clock, self: self, lives: map[string]Life{}, latest: map[string]time.Duration{}}
	const livers = 4
	var wait sync.WaitGroup
	killed := make(chan struct{}) // closed when enough were killed
	errs := make(chan error, livers)
	for n := range livers {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(n)))
			for i := 0; ; i++ {
				select {
				case <-killed:
					if i >= lives/livers {
						return
					}
				default:
				}
				if err := l.live(fmt.Sprintf("%d-%d", n, i), time.Duration(random.IntN(60))*time.Millisecond, random.IntN(8) == 0); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, livers))
	for i := range kills {
		after := time.Duration(random.IntN(60_000)) * time.Microsecond
		if i%30 == 29 {
			after += time.Second // so that some get to work on a busy machine, too
		}
		killOne(t, dir, after)
	}
	close(killed)
	wait.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	l.compare(dir)
}

// killOne starts a Collector and kills it after a while, which begins before it has opened anything.
func killOne(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), collectorEnv+"="+dir)
	child.Stderr = os.Stderr
	must(t, child.Start())
	<-time.After(after)
	must(t, child.Process.Kill())
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Errorf("the Collector ended by itself: %v", err)
	}
}

// compare takes in what is left, and compares the ledger with what was lived.
func (l *liver) compare(dir string) {
	l.t.Helper()
	ledger, err := Open(l.t.Context(), filepath.Join(dir, "ledger.db"))
	must(l.t, err)
	defer ledger.Close()
	before := len(all(l.t, ledger))
	c := NewCollector(Config{Dir: l.dir, Clock: l.clock}, ledger, slog.New(slog.DiscardHandler))
	must(l.t, c.scan(l.t.Context()))
	if left, err := os.ReadDir(string(l.dir)); err != nil || len(left) > 0 {
		l.t.Errorf("left in the folder: %v, %v", left, err)
	}
	got, want := byID(all(l.t, ledger)), l.lives
	var gotSum, wantSum time.Duration
	witnessed := 0
	for id, life := range want {
		have := got[id]
		if latest, guessed := l.latest[id]; guessed && have.EndBoot >= life.EndBoot {
			switch {
			case have.Estimated && have.EndBoot <= latest: // a Collector saw it run after its last heartbeat
				life.EndBoot = have.EndBoot
			case !have.Estimated && have.EndBoot <= latest+time.Second: // or end, as soon as it had the time to look
				life.EndBoot, life.Estimated = have.EndBoot, false
				witnessed++
			}
		}
		want[id] = life
		gotSum += have.EndBoot - have.StartBoot
		wantSum += life.EndBoot - life.StartBoot
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("ledger (-want +got):\n%s", diff)
	}
	if gotSum != wantSum {
		l.t.Errorf("all lives together have %v in the ledger, and had %v", gotSum, wantSum)
	}
	for table, rows := range map[string]int{"starts": len(want), "ends": len(want), "resizes": 0} {
		var n int
		if err := ledger.db.QueryRowContext(l.t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != rows {
			l.t.Errorf("%d rows in %s, %v, want %d", n, table, err, rows)
		}
	}
	if before == 0 {
		l.t.Error("no Collector lived long enough to write anything")
	}
	l.t.Logf("%d lives, %v in all, %d of them without a word at the end, of which a Collector saw %d; %d were in the ledger after the last kill", len(want), wantSum, len(l.latest), witnessed, before)
}
