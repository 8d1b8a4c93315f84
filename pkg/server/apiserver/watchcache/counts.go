package watchcache

import (
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

const (
	// period is the time between two looks at a kind.
	period = 5 * time.Second
	// kept is for how many periods a cache keeps events for who comes back: 75 s (upstream's DefaultEventFreshDuration).
	kept = 15
	// calm is how many periods of quiet come before a cache relists: whoever watches has had what was.
	calm = 4
	// least is how many versions of objects, which are no more, are worth a list. A version of a Pod takes about 10 kB.
	least = 1000
	// quiet is by how much fewer the events of calm periods are than those of the burst before.
	quiet = 64
	// seldom is how often a kind's cache is asked to list on the average; at once it may be a few times, as objects are made and deleted.
	seldom = 10 * time.Minute
	few    = 3
)

// counts is what a kind's cache holds, as far as its events tell.
type counts struct {
	live   int       // objects
	events [calm]int // of the last periods, the present one first
	gone   [kept]int // those that leave a version behind which is no more
	burst  int       // the most of gone in so many periods, since the cache last listed
}

func (c *counts) take(e watch.EventType) {
	switch e {
	case watch.Added:
		c.live++
	case watch.Deleted:
		c.live--
		c.gone[0]++
	case watch.Modified:
		c.gone[0]++
	default: // bookmarks say how far the database is
		return
	}
	c.events[0]++
}

// tick begins a period. It is true when the ring holds much that was, against what is and would be listed, and hardly anything comes.
func (c *counts) tick() bool {
	recent := sumOf(c.events[:])
	c.burst = max(c.burst, sumOf(c.gone[:]))
	copy(c.events[1:], c.events[:])
	copy(c.gone[1:], c.gone[:])
	c.events[0], c.gone[0] = 0, 0
	return c.burst >= least && c.burst >= c.live/2 && recent <= c.burst/quiet
}

func sumOf(counts []int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
