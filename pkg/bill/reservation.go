package bill

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

// Common is the kind of reservation that pays for Intel first, then for AMD.
const Common = "common"

// Reservation pays for Pods of one spec.
type Reservation struct {
	ID   string       // "eksri-…"
	Size podsize.Size // its Type is the kind: Common, "amd", or a model of GPU
	Node string       // the only node it pays on; empty for all
	// Namespace is the only one whose Pods it pays for; empty for all.
	Namespace string
	// From is when it was bought, Until the first moment at which it is not valid any more.
	From, Until time.Time
}

// pays says whether it is valid in a cycle. It pays for the whole cycle in which it was bought.
func (c Reservation) pays(cycle time.Time) bool {
	return c.From.Before(cycle.Add(Cycle)) && c.Until.After(cycle)
}

// kinds are the types that it pays for, in this order.
func (c Reservation) kinds() []string {
	if c.Size.Type == Common {
		return []string{"intel", "amd"}
	}
	return []string{c.Size.Type}
}

// breadth is how many Pods it might fit, roughly.
func (c Reservation) breadth() int {
	n := 0
	if c.Namespace == "" {
		n = 4
	}
	if c.Node == "" {
		n += 2
	}
	if c.Size.Type == Common {
		n++
	}
	return n
}

// inOrder sorts reservations as they pay: those that might fit fewer Pods first, then those that end first.
func inOrder(a, b Reservation) int {
	return cmp.Or(cmp.Compare(a.breadth(), b.breadth()), a.Until.Compare(b.Until), cmp.Compare(a.ID, b.ID))
}

// Fits says whether it may pay for a sandbox, of whichever of its types that is.
func (c Reservation) Fits(u Usage) bool {
	return slices.ContainsFunc(c.kinds(), func(kind string) bool { return c.fits(u, kind) })
}

// Unused gives the reservations that are left when the sandboxes have had theirs. Each sandbox takes the first one that fits it, in the
// order in which they pay.
func Unused(reservations []Reservation, running []Usage) []Reservation {
	left := slices.SortedFunc(slices.Values(reservations), inOrder)
	for _, u := range running {
		if at := slices.IndexFunc(left, func(c Reservation) bool { return c.Fits(u) }); at >= 0 {
			left = slices.Delete(left, at, at+1)
		}
	}
	return left
}

// fits says whether it may pay for a sandbox of a type.
func (c Reservation) fits(u Usage, kind string) bool {
	want := c.Size
	want.Type = kind
	return u.Size == want && !u.Spot && (c.Node == "" || c.Node == u.Node) && (c.Namespace == "" || c.Namespace == u.Namespace)
}

// ValidUntil is when a reservation ends that is bought for so many months: at the end of the same day of the month, or of the
// month's last day if that is earlier.
func ValidUntil(bought time.Time, months int) time.Time {
	year, month, day := bought.Date()
	first := time.Date(year, month+time.Month(months), 1, 0, 0, 0, 0, bought.Location())
	if last := first.AddDate(0, 1, -1).Day(); day > last {
		day = last
	}
	return first.AddDate(0, 0, day)
}

// TermHundredths is what a month costs of the list price when so many are bought at once.
func TermHundredths(months int) (int64, error) {
	switch {
	case months >= 1 && months <= 5:
		return 100, nil
	case months >= 6 && months <= 11:
		return 88, nil
	case months == 12:
		return 83, nil
	case months == 24:
		return 70, nil
	case months == 36 || months == 48 || months == 60:
		return 50, nil
	}
	return 0, fmt.Errorf("a term of %d months: want 1 to 11, 12, 24, 36, 48 or 60", months)
}

// Refund is what is given back of a reservation: what was paid, less the days used, begun ones as whole, of what it cost. It is
// never less than nothing.
func Refund(c Reservation, paid price.Amount, now time.Time) price.Amount {
	const day = 24 * time.Hour
	days := func(to time.Time) int64 { return int64((to.Sub(c.From) + day - 1) / day) }
	used, total := days(now), days(c.Until)
	if used >= total {
		return 0
	}
	used = max(used, 0)
	whole, rest := int64(paid)/total, int64(paid)%total // in two parts: paid × days may be more than can be counted
	return max(0, paid-price.Amount(whole*used+(rest*used+total/2)/total))
}
