package cli

import (
	"runtime/debug"
	"testing"
)

// TestHowOftenTheServerCollects: what the environment says goes before the product's own choice.
func TestHowOftenTheServerCollects(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	for _, tt := range []struct {
		env  string
		want int
	}{{"80", 100}, {"", gcPercent}} { // Go itself has read the environment when it started
		t.Setenv("GOGC", tt.env)
		boundMemory(110)
		if got := debug.SetGCPercent(100); got != tt.want {
			t.Errorf("with GOGC=%q in the environment it is %d, want %d", tt.env, got, tt.want)
		}
	}
}
