// Package bill turns the lives of sandboxes into charges, one cycle of an hour after the other: reservations first, what
// is left by the second. pkg/server calls it once an hour and for `nodeless bill`. It is pure.
//
// The rules are those of TKE Serverless ("Product pricing", "Reserved coupons"): a reservation offsets, in each hour, Pods of
// exactly its spec for as much as one Pod of that spec would run in an hour, whoever of them ran.
package bill

import (
	"cmp"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

// Cycle is what is settled at a time.
const Cycle = time.Hour

// Charge is how a stretch of time is paid for, by the names of the cloud's PodChargeInfo.
type Charge string

// The charges.
const (
	PostPaid Charge = api.ChargePostPaid
	Reserved Charge = "RESERVED_INSTANCE"
	Spot     Charge = api.ChargeSpot
	// Unpriced is time that nobody can be charged for, since there is no price for it. The line says why.
	Unpriced Charge = "UNPRICED"
)

// Usage is the life of one sandbox, for as long as it had one spec.
type Usage struct {
	ID        string // no other has it, also none of the same sandbox with another spec
	Namespace string // of its Pod
	Node      string // where it ran
	Size      podsize.Size
	Spot      bool
	Start     time.Time
	End       time.Time // zero while it runs
}

// Seconds is how long it ran within the cycle that begins at the given hour. Both ends are cut to whole seconds, so that the
// cycles of a life add up to it.
func (u Usage) Seconds(cycle time.Time) int64 {
	from, to := cycle.Unix(), cycle.Add(Cycle).Unix()
	end := to
	if !u.End.IsZero() {
		end = min(to, u.End.Unix())
	}
	return max(0, end-max(from, u.Start.Unix()))
}

// Line is what one sandbox is charged for a part of a cycle, in one way.
type Line struct {
	Usage       string // its ID
	Cycle       time.Time
	Seconds     int64 // negative when a line of before is taken back
	Charge      Charge
	Reservation string // the ID of the reservation that paid; empty without
	Amount      price.Amount
	Why         string // why it is Unpriced; empty otherwise
}

// Settle charges the cycle that begins at the given time, which is rounded down to the hour. The result depends on what is
// given and not on its order. What has no price is charged as Unpriced, and the other lines are as if it were not there.
func Settle(cycle time.Time, usages []Usage, reservations []Reservation, prices price.Table) []Line {
	return Correct(cycle, usages, reservations, prices, nil)
}

// Correct gives what has to be added to the lines of a cycle that was settled before, for the usages to be charged as it is known
// now how long they ran: lines for what is missing, and negative ones for what is too much. Usages that are not given stay as
// they are, and so do their parts of reservations.
func Correct(cycle time.Time, usages []Usage, reservations []Reservation, prices price.Table, settled []Line) []Line {
	cycle = cycle.UTC().Truncate(Cycle)
	open := openUsages(cycle, usages, settled)
	lines := takeBack(open, settled)
	lines = append(lines, offset(cycle, open, reservations, slices.Concat(settled, lines))...)
	for _, o := range open {
		if o.left > 0 {
			lines = append(lines, o.line(cycle, prices))
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return cmp.Compare(a.Usage, b.Usage) })
	return lines
}

// line charges what is left.
func (o *openUsage) line(cycle time.Time, prices price.Table) Line {
	line := Line{Usage: o.ID, Cycle: cycle, Seconds: o.left, Charge: PostPaid}
	hundredths := 100
	if o.Spot {
		line.Charge, hundredths = Spot, price.Spot
	}
	if (o.Size == podsize.Size{}) {
		line.Charge, line.Why = Unpriced, "its spec is not known"
		return line
	}
	var err error
	if line.Amount, err = prices.Cost(o.Size, o.left, hundredths); err != nil {
		line.Charge, line.Why, line.Amount = Unpriced, err.Error(), 0
	}
	return line
}

// takeBack gives lines for the usages that were charged for longer than they ran, the last lines first, and in parts at the price
// that they were charged at.
func takeBack(open []*openUsage, settled []Line) []Line {
	var back []Line
	for _, o := range open {
		// What several lines of one kind add up to is what can be taken back of it.
		var kinds []Line
		for _, l := range settled {
			if l.Usage != o.ID {
				continue
			}
			at := slices.IndexFunc(kinds, func(k Line) bool { return k.Charge == l.Charge && k.Reservation == l.Reservation })
			if at < 0 {
				kinds = append(kinds, l)
				continue
			}
			kinds[at].Seconds, kinds[at].Amount = kinds[at].Seconds+l.Seconds, kinds[at].Amount+l.Amount
		}
		for _, k := range slices.Backward(kinds) {
			n := min(-o.left, k.Seconds)
			if n <= 0 {
				continue
			}
			o.left += n
			part := k
			part.Seconds, part.Amount = -n, -k.Amount
			if n < k.Seconds {
				part.Amount = -share(k.Amount, n, k.Seconds)
			}
			back = append(back, part)
		}
	}
	return back
}

// share is the part of an amount, which is not negative, that n of total seconds are, rounded half up.
func share(a price.Amount, n, total int64) price.Amount {
	whole, rest := int64(a)/total, int64(a)%total
	return price.Amount(whole*n + (2*rest*n+total)/(2*total))
}

// openUsage is a usage with the seconds of the cycle that nothing has paid for yet; less than none when too many were paid for.
type openUsage struct {
	Usage
	left int64
}

// openUsages are those of which a cycle's lines are not as long as they ran in it, the oldest first.
func openUsages(cycle time.Time, usages []Usage, settled []Line) []*openUsage {
	charged := map[string]int64{}
	for _, l := range settled {
		charged[l.Usage] += l.Seconds
	}
	var open []*openUsage
	for _, u := range usages {
		if n := u.Seconds(cycle) - charged[u.ID]; n != 0 {
			open = append(open, &openUsage{u, n})
		}
	}
	slices.SortFunc(open, func(a, b *openUsage) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return open
}

// offset lets reservations pay for what they fit. Those that fit the least come first, so that none lies idle for another's sake: of
// one namespace before of all, of one node before of all, of AMD before of any CPU; then those that end first.
func offset(cycle time.Time, open []*openUsage, reservations []Reservation, settled []Line) []Line {
	reservations = slices.Clone(reservations)
	slices.SortFunc(reservations, inOrder)
	spent := map[string]int64{}
	for _, l := range settled {
		spent[l.Reservation] += l.Seconds
	}
	var lines []Line
	for _, c := range reservations {
		if !c.pays(cycle) {
			continue
		}
		budget := int64(Cycle/time.Second) - spent[c.ID]
		for _, kind := range c.kinds() {
			for _, o := range open {
				if n := min(budget, o.left); n > 0 && c.fits(o.Usage, kind) {
					o.left, budget = o.left-n, budget-n
					lines = append(lines, Line{Usage: o.ID, Cycle: cycle, Seconds: n, Charge: Reserved, Reservation: c.ID})
				}
			}
		}
	}
	return lines
}
