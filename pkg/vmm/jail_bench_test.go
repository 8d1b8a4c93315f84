package vmm

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/jail"
)

// BenchmarkJail boots the same microVM in the jail and without it, in turn, as the numbers of docs/adr/0034-qemu-in-a-jail.md were made:
// go test -run - -bench Jail -benchtime 10x ./pkg/vmm. It gives medians: of the time until QEMU's program begins, until the guest's agent
// answers, and of QEMU's own memory then.
func BenchmarkJail(b *testing.B) {
	h := needHost(b)
	ways := []struct {
		name  string
		start starter
	}{{"jailed", by(h.prog)}, {"bare", unjailed}}
	seen := map[string][]float64{}
	for i := 0; b.Loop(); i++ {
		for n := range ways {
			way := ways[(n+i)%len(ways)]
			begin, boot, memory := bootOnce(b, h, fmt.Sprintf("boot%d%s", i, way.name), way.start)
			for what, value := range map[string]float64{"begin-ms": begin.Seconds() * 1000, "boot-ms": boot.Seconds() * 1000, "KiB": memory} {
				seen[way.name+"-"+what] = append(seen[way.name+"-"+what], value)
			}
		}
	}
	for what, values := range seen {
		slices.Sort(values)
		b.ReportMetric((values[(len(values)-1)/2]+values[len(values)/2])/2, what)
		b.Logf("%s: %.1f", what, values)
	}
}

// bootOnce boots a microVM and ends it.
func bootOnce(b *testing.B, h *host, id string, start starter) (begin, boot time.Duration, memory float64) {
	b.Helper()
	g := &guest{h: h, dir: filepath.Join(h.dir, id)}
	body, err := json.Marshal(g.config(""))
	must(b, err)
	must(b, os.Mkdir(g.dir, 0o700))
	v := newVM(id, h.cfg, slog.New(slog.DiscardHandler))
	v.jailed = func(cmd *exec.Cmd, p jail.Plan) error {
		begun := time.Now()
		defer func() { begin = time.Since(begun) }()
		return start(cmd, p)
	}
	must(b, v.create(body))
	begun := time.Now()
	must(b, v.start(b.Context(), bootBounds(AccelTCG)))
	boot = time.Since(begun)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", v.proc.cmd.Process.Pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(raw), "\nPss:")
	_, err = fmt.Sscan(rest, &memory)
	must(b, err)
	v.shutdown()
	must(b, v.cleanup(false))
	return begin, boot, memory
}
