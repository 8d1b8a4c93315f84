package robustness_test

import (
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testcluster"
)

// space is a namespace of one test in a cluster of its choice.
type space struct {
	testcluster.Space
}

func newSpace(t *testing.T, c *testcluster.Cluster, timeout time.Duration) *space {
	t.Helper()
	return &space{*testcluster.NewSpace(t, c, timeout)}
}

// with is the same space for a part of the test.
func (s *space) with(t *testing.T) *space {
	part := *s
	part.T = t
	return &part
}
