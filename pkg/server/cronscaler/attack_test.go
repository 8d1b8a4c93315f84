package cronscaler

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeless/nodeless/tests/attack"
)

// writes counts what the controller has written: statuses, and sizes of Deployments.
func (w *world) writes() (statuses, sizes int) {
	for _, a := range w.client.Actions() {
		if a.GetVerb() == "update" && a.GetSubresource() == "status" {
			statuses++
		}
	}
	return statuses, len(w.setSizes())
}

// TestAttackEverySecond: a tenant has the system write for it, past the fairness between tenants.
func TestAttackEverySecond(t *testing.T) {
	attack.Try(t, "T15", "have the system write by crons of every second", func(t *testing.T) attack.Outcome {
		var statuses, sizes int
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, map[string]int64{"deployments/web": 1})
			w.start()
			defer w.stop()
			var crons []string
			for i := range 50 {
				crons = append(crons, fmt.Sprintf(`{name: c%d, schedule: "*/%d * * * * *", targetSize: %d}`, i, 1+i%7, i))
			}
			w.apply(scalerOf(1, crons...))
			w.pass(time.Hour)
			statuses, sizes = w.writes()
			if status := brief(w.status("hpc")); !strings.Contains(status[1], "last 01T00:59:") && !strings.Contains(status[1], "last 01T00:58:") {
				t.Errorf("the status lags behind: %s", status[1])
			}
		})
		t.Logf("in an hour the status was written %d times, the size %d times", statuses, sizes)
		if statuses > 62 || sizes > 361 {
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T15", "have the system write for many objects", func(t *testing.T) attack.Outcome {
		var sizes int
		told := 0
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, map[string]int64{"deployments/web": 1})
			w.start()
			defer w.stop()
			for i := range 100 {
				name := fmt.Sprintf("hpc-%03d", i)
				w.apply(strings.NewReplacer("name: hpc", "name: "+name, `uid: "1"`, fmt.Sprintf("uid: %q", name)).Replace(
					scalerOf(1, fmt.Sprintf(`{name: a, schedule: "%d 0 * * * *", targetSize: %d}`, i%60, i))))
			}
			w.pass(90 * time.Minute)
			_, sizes = w.writes()
			for i := range 100 {
				if strings.Contains(brief(w.status(fmt.Sprintf("hpc-%03d", i)))[0], "False TooMany: only the 20 oldest") {
					told++
				}
			}
		})
		t.Logf("%d objects of 100 are not dealt with and say so; sizes were set %d times", told, sizes)
		if told != 80 || sizes > 40 {
			return attack.Succeeded
		}
		return attack.Contained
	})
}
