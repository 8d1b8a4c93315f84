package meter

import (
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/podsize"
)

var update = flag.Bool("update", false, "write the golden files")

func samples() ([]Usage, Instant) {
	intel := podsize.Size{Type: "intel", CPU: 250, Memory: podsize.Gi / 2}
	v100 := podsize.Size{Type: "V100", CPU: 8000, Memory: 40 * podsize.Gi, GPU: 1}
	now := Instant{Wall: noon.Add(time.Hour), BootID: thisBoot, Boot: 2 * time.Hour}
	usage := func(id string, start, length time.Duration, size podsize.Size) Usage {
		u := Usage{Sandbox: id, Namespace: "shop", Pod: "web-" + id, PodUID: "u-" + id, Workload: "Deployment/web", Node: "host-1", Spec: size,
			Charge: "POSTPAID_BY_HOUR", Start: noon.Add(start), BootID: thisBoot, StartBoot: time.Hour + start}
		if length >= 0 {
			u.End = u.Start.Add(length)
		}
		return u
	}
	b := usage("b", 0, 90*time.Second+1, intel)
	next := usage("b", 90*time.Second+1, -1, v100)
	next.Stretch = 1
	c := usage("c", 0, 0, podsize.Size{})
	c.Estimated = true
	odd := usage("d", time.Minute, time.Second, intel)
	odd.Namespace, odd.Pod, odd.Workload, odd.Charge = "=1", "two\nlines", `a"b\c`+"\n", "SPOT"
	odd.Tags = map[string]string{"b": "=1+1", "a": "x,\"y\"\n<é>"}
	return []Usage{odd, next, c, usage("a", 0, 1500*time.Millisecond, intel), b, usage("e", 2*time.Minute, -1, intel)}, now
}

func TestExports(t *testing.T) {
	usages, now := samples()
	for name, write := range map[string]func(io.Writer, []Usage, Instant) error{"usages.prom": WritePrometheus} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			must(t, write(&got, usages, now))
			golden := filepath.Join("testdata", name)
			if *update {
				must(t, os.WriteFile(golden, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			for range 10 { // whatever order they come in
				rand.Shuffle(len(usages), func(i, j int) { usages[i], usages[j] = usages[j], usages[i] })
				var again strings.Builder
				must(t, write(&again, usages, now))
				if again.String() != got.String() {
					t.Fatalf("another order gives\n%s", again.String())
				}
			}
			must(t, write(io.Discard, nil, now))
			if err := write(failing{}, usages, now); !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("a writer that fails gives %v", err)
			}
		})
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestSumsBeyondADuration(t *testing.T) {
	var s sum
	const long = 1<<63 - 1 // 292 years
	for range 1000 {
		s.add(long)
	}
	if s.seconds != 9223372036854 || s.nanos != 775807000 {
		t.Errorf("sum = %d.%09d s", s.seconds, s.nanos)
	}
}
