package robustness_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// ledgerTolerance is how far the sum of the ledger may be from the kernel's.
const ledgerTolerance = 0.001

// TestFaultLedger: Pods of several specs, some of them spot, come and go for half an hour while the server is killed a hundred times at
// random points, and now and then a QEMU. Afterwards the ledger has every microVM that the kernel has had as a process, once, for as long
// as the kernel had it, and the bill is the sum that the ledger and the price list give, to the smallest unit.
func TestFaultLedger(t *testing.T) {
	full(t)
	length, kills := 30*time.Minute, 100
	if text := os.Getenv("NODELESS_LEDGER_MINUTES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("NODELESS_LEDGER_MINUTES is %q, want a number of minutes", text)
		}
		length, kills = time.Duration(n)*time.Minute, kills*n/30
	}
	s := newSpace(t, newCluster(t, testbed.Options{}), length+25*time.Minute)
	k := s.watchKernel()
	r := dice(t)
	kills = s.pay(r, length, kills)
	s.Until("no Pod is left", func() (bool, error) {
		list, err := s.Client.CoreV1().Pods(s.Name).List(s.Ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
	k.stop()
	lives := datadir.Dir(filepath.Join(s.Host.Root, "data")).SandboxRecords()
	s.Until("the ledger has taken in all records", func() (bool, error) {
		left, err := os.ReadDir(lives)
		return err == nil && len(left) == 0, fmt.Errorf("%d files are left, %v", len(left), err)
	})
	usages := s.ledger()
	k.compare(t, usages)
	s.compareBill(usages, kills)
}

// pay makes and deletes Pods until the time is up, with at most five at a time, and kills the server so many times meanwhile. It gives how
// many that came to.
func (s *space) pay(r *rand.Rand, length time.Duration, kills int) (killed int) {
	s.T.Helper()
	begin, made := time.Now(), 0
	var there []string
	for time.Since(begin) < length || len(there) > 0 {
		over := time.Since(begin) >= length
		switch due := 1 + int(float64(kills)*float64(time.Since(begin))/float64(length)); {
		case !over && killed < due:
			killed++
			if err := s.Kill(s.Ctx); err != nil {
				s.T.Fatal(err)
			}
			pause(s.Ctx, time.Duration(r.IntN(3000))*time.Millisecond) // Pods live on without it
			if err := s.Start(s.Ctx); err != nil {
				s.T.Fatal(err)
			}
		case !over && r.IntN(12) == 0:
			if pids := s.Processes(s.T, qemu); len(pids) > 0 {
				_ = syscall.Kill(pids[r.IntN(len(pids))], syscall.SIGKILL) // it may just have ended
			}
		case !over && len(there) < 5 && r.IntN(2) == 0:
			name := fmt.Sprintf("p%03d", made)
			s.Apply(paying(name, made))
			there = append(there, name)
			made++
		case len(there) > 0:
			i := r.IntN(len(there))
			s.Kubectl("delete", "pod", there[i], "--wait=false")
			there = slices.Delete(there, i, i+1)
		}
		pause(s.Ctx, time.Duration(r.IntN(4000))*time.Millisecond)
	}
	s.T.Logf("%d Pods were made, the server was killed %d times", made, killed)
	return killed
}

// paying is a Pod of one of several specs.
func paying(name string, i int) string {
	asks := []string{"{cpu: 250m, memory: 512Mi}", "{cpu: 500m, memory: 2Gi}", "{cpu: 1, memory: 1Gi}"}[i%3]
	pod := testcluster.Sleeper(name, "    resources: {requests: "+asks+"}\n")
	if i%4 == 0 {
		pod = strings.Replace(pod, "metadata: {", "metadata: {annotations: {"+api.SpotPod+`: "true"}, `, 1)
	}
	return pod
}

// kernel is what the kernel says of the lives of microVMs' processes.
type kernel struct {
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu    sync.Mutex
	lives map[string]life // by sandbox; guarded by mu
	odd   []string        // what cannot be; guarded by mu
}

// life is the time of one process, since the boot.
type life struct{ start, end time.Duration }

// guestName is how a sandbox's QEMU names its guest.
var guestName = regexp.MustCompile(`-name guest=([0-9a-f]{64}),`)

// watchKernel notes every QEMU of a Pod from now on.
func (s *space) watchKernel() *kernel {
	ctx, cancel := context.WithCancel(s.Ctx)
	k := &kernel{cancel: cancel, lives: map[string]life{}}
	known := map[int]bool{}
	k.all.Go(func() {
		for ctx.Err() == nil {
			all, err := s.Host.Processes()
			if err != nil {
				continue
			}
			for pid := range known {
				if _, runs := all[pid]; !runs {
					delete(known, pid)
				}
			}
			for pid, line := range all {
				if m := guestName.FindStringSubmatch(line); m != nil && strings.Contains(line, "qemu-system") && !known[pid] {
					known[pid] = true
					k.follow(m[1], pid)
				}
			}
			pause(ctx, 100*time.Millisecond)
		}
	})
	return k
}

// follow waits for the end of a process, which pidfd tells to the microsecond.
func (k *kernel) follow(sandbox string, pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		k.note("process %d of sandbox %s was gone before it could be watched: %v", pid, sandbox, err)
		return
	}
	start, err := startOf(pid)
	if err != nil {
		k.note("process %d of sandbox %s: %v", pid, sandbox, err)
		return
	}
	k.all.Go(func() {
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err == nil && n == 1 {
				break
			}
		}
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // it takes no other arguments anywhere
		k.mu.Lock()
		defer k.mu.Unlock()
		if _, twice := k.lives[sandbox]; twice {
			k.odd = append(k.odd, "sandbox "+sandbox+" had two processes")
		}
		k.lives[sandbox] = life{start, time.Duration(now.Nano())}
	})
}

func (k *kernel) note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.odd = append(k.odd, fmt.Sprintf(format, args...))
}

// startOf is the start of a process since the boot, in the kernel's ticks of 10 ms (proc(5), field 22 of stat).
func startOf(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, err
}

// stop waits for the end of all that run.
func (k *kernel) stop() {
	k.cancel()
	k.all.Wait()
}

// ledger is what the meter has written down of the namespace.
func (s *space) ledger() []meter.Usage {
	s.T.Helper()
	l, err := meter.Open(s.Ctx, datadir.Dir(filepath.Join(s.Host.Root, "data")).Ledger())
	if err != nil {
		s.T.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it was only read
	usages, err := l.Usages(s.Ctx, time.Time{}, time.Time{}, meter.Filter{Namespaces: []string{s.Name}})
	if err != nil {
		s.T.Fatal(err)
	}
	return usages
}

// compare holds the ledger against the kernel: the same sandboxes, each once, and the same time.
func (k *kernel) compare(t *testing.T, usages []meter.Usage) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, odd := range k.odd {
		t.Error(odd)
	}
	var sum, kernelSum, worst time.Duration
	estimated := 0
	seen := map[string]bool{}
	for _, u := range usages {
		want, ok := k.lives[u.Sandbox]
		if !ok || seen[u.Sandbox] || u.Stretch != 0 || u.End.IsZero() || u.Unsized() {
			t.Errorf("the ledger has %+v; known to the kernel: %v, a second time: %v", u, ok, seen[u.Sandbox])
			continue
		}
		seen[u.Sandbox] = true
		if u.StartBoot != want.start {
			t.Errorf("sandbox %s began %s after the boot by the ledger, %s by the kernel", u.Sandbox, u.StartBoot, want.start)
		}
		got := u.End.Sub(u.Start)
		sum, kernelSum = sum+got, kernelSum+want.end-want.start
		worst = max(worst, (got - (want.end - want.start)).Abs())
		if u.Estimated {
			estimated++
		}
	}
	for sandbox := range k.lives {
		if !seen[sandbox] {
			t.Errorf("the ledger has nothing of sandbox %s", sandbox)
		}
	}
	off := float64(sum-kernelSum) / float64(kernelSum)
	t.Logf("%d microVMs, %s by the ledger, %s by the kernel: %+.5f %%; the worst differs by %s; %d ends are estimated", len(usages), sum, kernelSum, off*100, worst, estimated)
	if off < -ledgerTolerance || off > ledgerTolerance || len(usages) == 0 {
		t.Errorf("the ledger is off by %+.3f %%, want at most %.1f %%", off*100, ledgerTolerance*100)
	}
}

// compareBill adds up by hand what the bill has to say, by the list prices of TKE Serverless ("Product pricing", international, Intel).
func (s *space) compareBill(usages []meter.Usage, kills int) {
	s.T.Helper()
	rat := func(text string) *big.Rat {
		r, ok := new(big.Rat).SetString(text)
		if !ok {
			s.T.Fatalf("%q is no number", text)
		}
		return r
	}
	total, seconds := new(big.Rat), int64(0)
	for _, u := range usages {
		n := u.End.Unix() - u.Start.Unix()
		seconds += n
		price := new(big.Rat).Mul(big.NewRat(u.Spec.CPU, 1000), rat("0.000004976"))
		price.Add(price, new(big.Rat).Mul(big.NewRat(u.Spec.Memory, podsize.Gi), rat("0.000002073")))
		price.Mul(price, big.NewRat(n, 1))
		if u.Charge == api.ChargeSpot {
			price.Mul(price, big.NewRat(1, 5))
		}
		total.Add(total, price)
	}
	out, err := s.Host.Exec(s.Ctx, s.Host.Program, "bill", "-n", s.Name, "-o", "json")
	if err != nil {
		s.T.Fatal(err)
	}
	var bills []struct {
		Currency string `json:"currency"`
		Total    string `json:"total"`
		Pending  string `json:"pending"`
		Lines    []struct {
			Seconds int64  `json:"seconds"`
			Amount  string `json:"amount"`
		} `json:"lines"`
	}
	if err := json.Unmarshal([]byte(out), &bills); err != nil || len(bills) != 1 || bills[0].Currency != "USD" {
		s.T.Fatalf("the bill: %v\n%s", err, out)
	}
	billed, lines := int64(0), new(big.Rat)
	for _, l := range bills[0].Lines {
		billed += l.Seconds
		lines.Add(lines, rat(l.Amount))
	}
	stated := new(big.Rat).Add(rat(bills[0].Total), rat(bills[0].Pending))
	s.T.Logf("after %d kills: %d s, by hand %s USD; the bill says %d s and %s + %s USD, its lines add up to %s", kills, seconds, total.FloatString(9), billed, bills[0].Total, bills[0].Pending, lines.FloatString(9))
	if billed != seconds {
		s.T.Errorf("%d seconds are billed, want %d", billed, seconds)
	}
	// Each line is exact to nine decimals: half of the last for each is what rounding may do.
	if diff := new(big.Rat).Abs(new(big.Rat).Sub(lines, total)); diff.Cmp(big.NewRat(int64(len(usages)), 1e9)) > 0 {
		s.T.Errorf("the lines add up to %s, want %s", lines.FloatString(9), total.FloatString(9))
	}
	if diff := new(big.Rat).Abs(new(big.Rat).Sub(stated, lines)); diff.Cmp(big.NewRat(1, 1e6)) > 0 {
		s.T.Errorf("the bill states %s, its lines add up to %s", stated.FloatString(6), lines.FloatString(9))
	}
}
