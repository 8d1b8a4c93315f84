package server_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// idleEnv names the seconds for which TestControlPlane measures the server at rest; it does not by default, for
// machines are noisy. tests/bench publishes the numbers of the whole product.
const idleEnv = "NODELESS_TEST_IDLE"

func measureIdle(t *testing.T, p *process) {
	t.Helper()
	seconds, err := strconv.Atoi(os.Getenv(idleEnv))
	if err != nil {
		return
	}
	time.Sleep(20 * time.Second) // let the start settle
	before := cpuTicks(t, p.cmd.Process.Pid)
	time.Sleep(time.Duration(seconds) * time.Second)
	ticks := cpuTicks(t, p.cmd.Process.Pid) - before
	t.Logf("at rest: %.2f %% of a core over %d s, %s", float64(ticks)/float64(seconds), seconds, p.rss(t))
}

// cpuTicks is the processor time of a process in hundredths of a second.
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		t.Fatal(err)
	}
	system, err := strconv.Atoi(fields[12])
	if err != nil {
		t.Fatal(err)
	}
	return user + system
}
