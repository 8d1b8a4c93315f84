package spot

import (
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/podsize"
)

// amount is CPU time and memory.
type amount struct{ cpu, memory int64 } // thousandths of a core, bytes

func (a amount) plus(b amount) amount  { return amount{a.cpu + b.cpu, a.memory + b.memory} }
func (a amount) minus(b amount) amount { return amount{a.cpu - b.cpu, a.memory - b.memory} }

// tight tells that of what a host has less than the reserve would be free.
func tight(has, used amount, percent int64) bool {
	return podsize.BeyondReserve(has.cpu, used.cpu, percent) || podsize.BeyondReserve(has.memory, used.memory, percent)
}

// spotPod is one on a host that is not going yet.
type spotPod struct {
	key    string // namespace/name
	asks   amount
	notice time.Time // when it goes; zero when it was not told
}

// host is what matters of a Node.
type host struct {
	has, used amount    // used by all Pods that are not going yet
	spot      []spotPod // the preferred victims first
}

// steps is what to do about a host's spot Pods, by their keys.
type steps struct{ tell, keep, end []string }

// plan frees a host's reserve: what is used of it by spot Pods goes, after their notice. Those who were told stay if the room is
// not needed after all.
func plan(h host, percent int64, now time.Time) steps {
	var s steps
	used := h.used
	told := slices.Clone(h.spot)
	told = slices.DeleteFunc(told, func(p spotPod) bool { return p.notice.IsZero() })
	slices.SortStableFunc(told, func(a, b spotPod) int { return a.notice.Compare(b.notice) })
	for _, p := range told {
		switch {
		case !tight(h.has, used, percent):
			s.keep = append(s.keep, p.key)
			continue
		case !p.notice.After(now):
			s.end = append(s.end, p.key)
		}
		used = used.minus(p.asks)
	}
	for _, p := range h.spot {
		if p.notice.IsZero() && tight(h.has, used, percent) {
			s.tell = append(s.tell, p.key)
			used = used.minus(p.asks)
		}
	}
	return s
}
