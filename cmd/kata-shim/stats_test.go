package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/containerd/cgroups/stats/v1"
	v2 "github.com/containerd/cgroups/v2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
	"google.golang.org/protobuf/types/known/anypb"
)

// hung is a shim whose guest never answers, and which does not look at the time meanwhile.
type hung struct {
	shimapi.Shim
	release chan struct{} // closed at the end
}

func (h hung) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	<-h.release
	return nil, errors.New("given up")
}

func TestStatsGiveUpOnAHungGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		began := time.Now()
		_, err := service{Shim: hung{release: release}}.Stats(t.Context(), &taskapi.StatsRequest{ID: "x"})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != statsTimeout {
			t.Errorf("%v after %s, want the deadline after %s", err, time.Since(began), statsTimeout)
		}
	})
}

type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// amended is what becomes of m on its way to containerd.
func amended(t *testing.T, typeURL string, m message) {
	t.Helper()
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	box := &anypb.Any{TypeUrl: typeURL, Value: raw}
	if err := amend(box); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmarshal(box.Value); err != nil {
		t.Fatal(err)
	}
}

func TestAmendGivesContainerdTheTotals(t *testing.T) {
	m := &v1.Metrics{
		CPU:    &v1.CPUStat{Usage: &v1.CPUUsage{Total: 7}},
		Memory: &v1.MemoryStat{Cache: 1, RSS: 2, MappedFile: 3, PgFault: 4, PgMajFault: 5, TotalInactiveFile: 6, Usage: &v1.MemoryEntry{Usage: 8}},
	}
	amended(t, metricsV1, m)
	got := m.Memory
	if got.TotalRSS != 2 || got.TotalPgFault != 4 || got.TotalPgMajFault != 5 || got.TotalCache != 1 || got.TotalMappedFile != 3 {
		t.Errorf("totals are %v", got)
	}
	if got.TotalInactiveFile != 6 || got.Usage.Usage != 8 || m.CPU.Usage.Total != 7 {
		t.Errorf("what was right before is %v, %v", got, m.CPU)
	}
	amended(t, metricsV1, &v1.Metrics{}) // of a container without a process
}

func TestAmendUncrossesProcessorTimes(t *testing.T) {
	m := &v2.Metrics{CPU: &v2.CPUStat{UsageUsec: 9, UserUsec: 2, SystemUsec: 7}}
	amended(t, metricsV2, m)
	if m.CPU.UserUsec != 7 || m.CPU.SystemUsec != 2 || m.CPU.UsageUsec != 9 {
		t.Errorf("processor times are %v", m.CPU)
	}
}

func TestAmendLeavesTheUnknown(t *testing.T) {
	box := &anypb.Any{TypeUrl: "x", Value: []byte{1}}
	if err := amend(box); err != nil || len(box.Value) != 1 || amend(nil) != nil {
		t.Errorf("an unknown kind of metrics: %v, %v", box, amend(box))
	}
}
