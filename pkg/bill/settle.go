// Package bill turns the lives of sandboxes into charges, one cycle of an hour after the other: reservations first, what
// is left by the second. pkg/server calls it once an hour and for `nodeless bill`. It is pure.
//
// The rules are those of TKE Serverless ("Product pricing", "Reserved coupons"): a coupon offsets, in each hour, Pods of
// exactly its spec for as much as one Pod of that spec would run in an hour, whoever of them ran.
package bill

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/spec"
)

// Cycle is what is settled at a time.
const Cycle = time.Hour

// Charge is how a stretch of time is paid for, by the names of the cloud's PodChargeInfo.
type Charge string

// The charges.
const (
	PostPaid Charge = "POSTPAID_BY_HOUR"
	Reserved Charge = "RESERVED_INSTANCE"
	Spot     Charge = "SPOT"
)

// Usage is the life of one sandbox.
type Usage struct {
	ID    string // of the sandbox; no other has it
	Node  string // where it ran
	Size  spec.Size
	Spot  bool
	Start time.Time
	End   time.Time // zero while it runs
}

// seconds is how long it ran within a cycle. Both ends are cut to whole seconds, so that the cycles of a life add up to it.
func (u Usage) seconds(cycle time.Time) int64 {
	from, to := cycle.Unix(), cycle.Add(Cycle).Unix()
	end := to
	if !u.End.IsZero() {
		end = min(to, u.End.Unix())
	}
	return max(0, end-max(from, u.Start.Unix()))
}

// Line is what one sandbox is charged for a part of a cycle, in one way.
type Line struct {
	Usage   string // its ID
	Cycle   time.Time
	Seconds int64
	Charge  Charge
	Coupon  string // the ID of the coupon that paid; empty without
	Amount  price.Amount
}

// Settle charges the cycle that begins at the given time, which is rounded down to the hour. The result depends on what is
// given and not on its order. It fails, and charges nothing, when a spec has no price.
func Settle(cycle time.Time, usages []Usage, coupons []Coupon, prices price.Table) ([]Line, error) {
	cycle = cycle.UTC().Truncate(Cycle)
	open := openUsages(cycle, usages)
	lines := offset(cycle, open, coupons)
	for _, o := range open {
		if o.left == 0 {
			continue
		}
		charge, hundredths := PostPaid, 100
		if o.Spot {
			charge, hundredths = Spot, price.Spot
		}
		amount, err := prices.Cost(o.Size, o.left, hundredths)
		if err != nil {
			return nil, fmt.Errorf("settle %s of sandbox %s: %w", cycle.Format(time.RFC3339), o.ID, err)
		}
		lines = append(lines, Line{Usage: o.ID, Cycle: cycle, Seconds: o.left, Charge: charge, Amount: amount})
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return cmp.Compare(a.Usage, b.Usage) })
	return lines, nil
}

// openUsage is a usage with the seconds of the cycle that nothing has paid for yet.
type openUsage struct {
	Usage
	left int64
}

// openUsages are those that ran in the cycle, the oldest first.
func openUsages(cycle time.Time, usages []Usage) []*openUsage {
	var open []*openUsage
	for _, u := range usages {
		if n := u.seconds(cycle); n > 0 {
			open = append(open, &openUsage{u, n})
		}
	}
	slices.SortFunc(open, func(a, b *openUsage) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return open
}

// offset lets coupons pay for what they fit. Those that fit the least come first, so that none lies idle for another's sake: of
// one node before of all, of AMD before of any CPU; then those that end first.
func offset(cycle time.Time, open []*openUsage, coupons []Coupon) []Line {
	coupons = slices.Clone(coupons)
	slices.SortFunc(coupons, func(a, b Coupon) int {
		return cmp.Or(cmp.Compare(a.breadth(), b.breadth()), a.Until.Compare(b.Until), cmp.Compare(a.ID, b.ID))
	})
	var lines []Line
	for _, c := range coupons {
		if !c.pays(cycle) {
			continue
		}
		budget := int64(Cycle / time.Second)
		for _, kind := range c.kinds() {
			for _, o := range open {
				if n := min(budget, o.left); n > 0 && c.fits(o.Usage, kind) {
					o.left, budget = o.left-n, budget-n
					lines = append(lines, Line{Usage: o.ID, Cycle: cycle, Seconds: n, Charge: Reserved, Coupon: c.ID})
				}
			}
		}
	}
	return lines
}
