package meter

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

// Mark is a place in the list of usages: behind the one that it names.
type Mark struct {
	Start   int64  // of the sandbox, in nanoseconds since 1970
	Sandbox string // its id
	Stretch int
}

// Page lists as Usages does, behind a mark, no more than most; the zero Mark is before the first. next is where the list goes on, nil at
// its end. However much the ledger holds, no more than a page of it is in memory.
func (l *Ledger) Page(ctx context.Context, from, to time.Time, f Filter, after Mark, most int) (list []Usage, next *Mark, err error) {
	low, high := bounds(from, to)
	var last Mark
	err = l.between(ctx, low, high, f, after, func(life Life) bool {
		for _, u := range stretches(life) {
			here := Mark{life.Start.UnixNano(), u.Sandbox, u.Stretch}
			if seen := here.Start == after.Start && here.Sandbox == after.Sandbox && here.Stretch <= after.Stretch; seen || !within(u, low, high) {
				continue
			}
			if len(list) == most {
				next = &last
				return false
			}
			list, last = append(list, u), here
		}
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list usages: %w", err)
	}
	return list, next, nil
}

// between reads the lives that ran between two moments, from a mark on, the oldest first, until f does not want more: those that ran at the
// first moment already, and those that began after it. Each has an index; the two conditions together would have every row looked at.
func (l *Ledger) between(ctx context.Context, low, high int64, f Filter, from Mark, each func(Life) bool) error {
	more := true
	read := func(starts, by, where string, args ...any) error {
		if from != (Mark{}) {
			where, args = where+" AND (s.start_wall, s.sandbox) >= (?, ?)", append(args, from.Start, from.Sandbox)
		}
		where, args = f.narrow(where, args, by)
		return eachLife(ctx, l.db, starts, where, args, func(life Life) bool {
			more = each(life)
			return more
		})
	}
	if low > math.MinInt64 && (from == (Mark{}) || from.Start < low) {
		// CROSS JOIN has the ends read first, of which few are so late, and not all starts.
		const late = "(SELECT sandbox FROM ends WHERE end_wall > ? UNION ALL SELECT sandbox FROM running) late CROSS JOIN starts s ON s.sandbox = late.sandbox"
		err := read(late, "+", "WHERE s.start_wall < ?", low, min(low, high))
		if err != nil || !more {
			return err
		}
	}
	return read(allStarts, "", "WHERE s.start_wall >= ? AND s.start_wall < ?", low, high)
}

// Named lists the usages of the sandboxes whose id begins with prefix, of a few of them when there are many: an id is 64 digits of which
// a prefix of eight is hardly ever had twice.
func (l *Ledger) Named(ctx context.Context, prefix string, f Filter) ([]Usage, error) {
	const few = 1000
	where, args := f.narrow("WHERE s.sandbox >= ? AND s.sandbox < ?", []any{prefix, prefix + "\x7f"}, "+")
	var all []Usage
	err := eachLife(ctx, l.db, allStarts, where, args, func(life Life) bool {
		all = append(all, stretches(life)...)
		return len(all) < few
	})
	if err != nil {
		return nil, fmt.Errorf("find usages: %w", err)
	}
	return all, nil
}

// narrow adds the filter to a condition, such that rows of one namespace, or of all, come from an index in their order. by is "+" where
// another index than that of the namespaces finds fewer rows.
func (f Filter) narrow(where string, args []any, by string) (string, []any) {
	switch len(f.Namespaces) {
	case 0:
		if f.Namespaces != nil {
			return where + " AND 0", args
		}
		return where, args
	case 1:
		return where + " AND " + by + "s.namespace = ?", append(args, f.Namespaces[0])
	}
	for _, ns := range f.Namespaces {
		args = append(args, ns)
	}
	// The plus keeps the rows in the order of their starts; by the namespaces they would have to be sorted.
	return where + " AND +s.namespace IN (?" + strings.Repeat(", ?", len(f.Namespaces)-1) + ")", args
}

// bounds are two moments in the tables; a zero one is no bound.
func bounds(from, to time.Time) (low, high int64) {
	low, high = math.MinInt64, math.MaxInt64
	if !from.IsZero() {
		low = from.UnixNano()
	}
	if !to.IsZero() {
		high = to.UnixNano()
	}
	return low, high
}

// within tells whether a usage is between two moments.
func within(u Usage, low, high int64) bool {
	start, end := u.Start.UnixNano(), int64(math.MaxInt64)
	if !u.End.IsZero() {
		end = u.End.UnixNano()
	}
	return start < high && (end > low || start >= low)
}
