package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpansOfTwoPods(t *testing.T) {
	var events []event
	for _, line := range []string{
		`2026-11-24 01:00:00 +0000 UTC k8s.io /containers/create {"id":"s1","image":"pause"}`,
		`2026-11-24 01:00:02.5 +0000 UTC k8s.io /tasks/create {"container_id":"s1","pid":1}`,
		`2026-11-24 01:00:02.6 +0000 UTC k8s.io /tasks/start {"container_id":"s1","pid":1}`,
		`2026-11-24 01:00:02.7 +0000 UTC k8s.io /containers/create {"id":"c1","image":"hello"}`,
		`2026-11-24 01:00:03 +0000 UTC k8s.io /tasks/create {"container_id":"c1"}`,
		`2026-11-24 01:00:03.2 +0000 UTC k8s.io /tasks/start {"container_id":"c1"}`,
		`2026-11-24 01:00:09 +0000 UTC k8s.io /tasks/exit {"container_id":"c1","id":"c1"}`,
		`no event at all`,
		`2026-11-24 01:01:00 +0000 UTC k8s.io /containers/create {"id":"s2"}`,
		`2026-11-24 01:01:03 +0000 UTC k8s.io /tasks/create {"container_id":"s2"}`,
		`2026-11-24 01:01:03.1 +0000 UTC k8s.io /tasks/start {"container_id":"s2"}`,
		`2026-11-24 01:01:04 +0000 UTC k8s.io /containers/create {"id":"c2"}`,
		`2026-11-24 01:01:05 +0000 UTC k8s.io /tasks/start {"container_id":"c2"}`,
	} {
		if e, ok := parseEvent(line); ok {
			events = append(events, e)
		}
	}
	want := []spans{
		{sandbox: 2500 * time.Millisecond, container: 500 * time.Millisecond},
		{sandbox: 3 * time.Second, container: time.Second},
	}
	if diff := cmp.Diff(want, spansOf(events), cmp.AllowUnexported(spans{})); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}
