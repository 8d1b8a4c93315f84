package main

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/containerd/cgroups/stats/v1"
	v2 "github.com/containerd/cgroups/v2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// statsTimeout is what the guest has to answer in. The kubelet asks for all its Pods at once and waits for the slowest:
// a guest that hangs must not cost the others their figures.
const statsTimeout = 2 * time.Second

// Stats tells what a container uses in the guest. The stock answer has it, but not where it belongs.
func (s service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	type figures struct {
		answer *taskapi.StatsResponse
		err    error
	}
	told := make(chan figures, 1)
	go func() { // Kata may be busy with a disk, and does not look at the time
		answer, err := s.Shim.Stats(ctx, r)
		told <- figures{answer, err}
	}()
	var f figures
	select {
	case f = <-told:
	case <-ctx.Done():
		f.err = ctx.Err()
	}
	answer, err := f.answer, f.err
	if err != nil {
		return nil, err
	}
	if err := amend(answer.Stats); err != nil {
		return nil, fmt.Errorf("amend metrics of container %s: %w", r.ID, err)
	}
	return answer, nil
}

// Names by which containerd knows the two generations of metrics.
const (
	metricsV1 = "io.containerd.cgroups.v1.Metrics"
	metricsV2 = "io.containerd.cgroups.v2.Metrics"
)

// amend corrects metrics as Kata makes them; which generation it makes depends on the host.
func amend(metrics *anypb.Any) (err error) {
	switch metrics.GetTypeUrl() {
	case metricsV1:
		var m v1.Metrics
		if err := m.Unmarshal(metrics.Value); err != nil {
			return err
		}
		total(m.Memory)
		metrics.Value, err = m.Marshal()
	case metricsV2:
		var m v2.Metrics
		if err := m.Unmarshal(metrics.Value); err != nil {
			return err
		}
		if m.CPU != nil { // Kata has the two crossed
			m.CPU.UserUsec, m.CPU.SystemUsec = m.CPU.SystemUsec, m.CPU.UserUsec
		}
		metrics.Value, err = m.Marshal()
	}
	return err
}

// total fills in the figures that include children, of which Kata sets one. They are those that containerd reads, and
// what the guest reports always includes children.
func total(m *v1.MemoryStat) {
	if m == nil {
		return
	}
	m.TotalCache, m.TotalRSS, m.TotalMappedFile = m.Cache, m.RSS, m.MappedFile
	m.TotalPgFault, m.TotalPgMajFault = m.PgFault, m.PgMajFault
	m.InactiveFile = m.TotalInactiveFile
}
