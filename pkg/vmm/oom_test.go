package vmm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackALargeNeighbourIsNotTheFirstChoice: by the kernel's sum, share of memory in thousandths and score.
func TestAttackALargeNeighbourIsNotTheFirstChoice(t *testing.T) {
	attack.Try(t, "T6", "a small microVM grows beyond what it was sold, beside a large one that does not", func(t *testing.T) attack.Outcome {
		const gib, host = 1 << 30, int64(24 << 30)
		points := func(sold, has int64) int64 { return 1000*has/host + int64(oomScore(sold, host)) }
		if small, large := points(2*gib, 3*gib), points(16*gib, 16*gib); small <= large {
			t.Errorf("the small one that grew has %d points, the large one %d", small, large)
		}
		if least := points(16*gib, 1*gib); least <= 0 {
			t.Errorf("a microVM has %d points, not more than a daemon", least)
		}
		return attack.Contained
	})
}

func TestQEMUIsRanked(t *testing.T) {
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "7"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "meminfo"), []byte("MemTotal: 8388608 kB\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	score := filepath.Join(proc, "7", "oom_score_adj")
	if err := os.WriteFile(score, []byte("-998"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rankForOOM(proc, 7, 2<<30); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(score); err != nil || string(got) != "750" {
		t.Errorf("score %q, %v; want 750", got, err)
	}
	if err := rankForOOM(proc, 8, 2<<30); err == nil {
		t.Error("a process that is gone was ranked")
	}
}
