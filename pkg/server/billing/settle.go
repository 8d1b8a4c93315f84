package billing

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/meter"
)

// unsized stands in the place of a spec that is not known.
const unsized = "unsized"

// lives are the usages of a time by their ID, as they are known at one moment.
type lives struct {
	known        map[string]meter.Usage
	usages       []bill.Usage
	reservations []bill.Reservation
}

// usageID is what the journal call a usage.
func usageID(u meter.Usage) string { return u.Sandbox + "/" + strconv.Itoa(u.Stretch) }

// lives asks the ledger for what ran between two moments; a zero moment is no bound.
func (s *Server) lives(ctx context.Context, from, to time.Time, now meter.Instant) (lives, error) {
	found, err := s.cfg.Ledger.Usages(ctx, from, to, meter.Filter{})
	if err != nil {
		return lives{}, err
	}
	reservations, err := s.cfg.Journal.Terms(ctx)
	if err != nil {
		return lives{}, err
	}
	l := lives{known: make(map[string]meter.Usage, len(found)), reservations: reservations}
	for _, u := range found {
		id := usageID(u)
		l.known[id] = u
		l.usages = append(l.usages, bill.Usage{
			ID: id, Namespace: u.Namespace, Node: u.Node, Size: u.Spec, Spot: u.Charge == api.ChargeSpot, Start: u.Start, End: seenUntil(u, now),
		})
	}
	return l, nil
}

// seenUntil is up to when a usage is known to have run. The wall clock does not count for one that runs: it may have been set
// since. Of one on another host, or of another boot of this one, is known what the ledger was told last.
func seenUntil(u meter.Usage, now meter.Instant) time.Time {
	switch {
	case !u.End.IsZero():
		return u.End
	case u.BootID == now.BootID:
		return u.Start.Add(u.Until(now))
	case u.Seen.After(u.Start):
		return u.Seen
	}
	return u.Start
}

// hours calls do for every hour in which a usage ran for some seconds.
func hours(u bill.Usage, do func(hour time.Time, seconds int64)) {
	for at := u.Start.UTC().Truncate(bill.Cycle); at.Before(u.End); at = at.Add(bill.Cycle) {
		if n := u.Seconds(at); n > 0 {
			do(at, n)
		}
	}
}

// Settle charges every hour that is over for long enough and was not settled yet, the oldest first, and corrects those that were
// settled when less was known. It can be broken off at any point and called again.
func (s *Server) Settle(ctx context.Context, now meter.Instant) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.remember(ctx); err != nil {
		return err
	}
	l, err := s.lives(ctx, s.since(now), time.Time{}, now)
	if err != nil {
		return err
	}
	settled, err := s.settled(ctx)
	if err != nil {
		return err
	}
	if err := s.correct(ctx, l, settled, now); err != nil {
		return err
	}
	for _, at := range l.open(settled, time.Time{}, over(now)) {
		charges := l.charges(bill.Settle(at, l.usages, l.reservations, s.cfg.Prices), at, s.currency())
		cycle := journal.Cycle{Hour: at, Prices: s.cfg.Prices, Now: now.Wall}
		if err := s.cfg.Journal.Settle(ctx, cycle, charges); err != nil {
			return err
		}
		s.tell(at, charges)
	}
	s.last = now.Wall
	return s.cfg.Journal.Mark(ctx, s.last)
}

// remember takes up what an earlier process had settled: the ledger is read whole only where nobody ever did.
func (s *Server) remember(ctx context.Context) (err error) {
	if s.last.IsZero() {
		s.last, err = s.cfg.Journal.Marked(ctx)
	}
	return err
}

// settled is the set of settled hours.
func (s *Server) settled(ctx context.Context) (map[time.Time]bool, error) {
	found, err := s.cfg.Journal.Settled(ctx, time.Time{}, time.Time{})
	set := make(map[time.Time]bool, len(found))
	for _, at := range found {
		set[at] = true
	}
	return set, err
}

// correct adds to settled hours what is known now and was not when they were settled: of sandboxes whose records came late, who
// ended before anybody saw it, or who ran while the clock was set.
func (s *Server) correct(ctx context.Context, l lives, settled map[time.Time]bool, now meter.Instant) error {
	wrong, err := s.wrong(ctx, l, settled)
	if err != nil {
		return err
	}
	affected := map[time.Time][]bill.Usage{}
	for _, u := range wrong {
		there, err := s.cfg.Journal.Hours(ctx, u.ID)
		if err != nil {
			return err
		}
		of := map[time.Time]bool{}
		for _, at := range there {
			of[at] = true
		}
		hours(u, func(at time.Time, _ int64) { of[at] = of[at] || settled[at] })
		for at, is := range of {
			if is {
				affected[at] = append(affected[at], u)
			}
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(affected), time.Time.Compare) {
		have, err := s.cfg.Journal.Hour(ctx, at)
		if err != nil {
			return err
		}
		prices, err := s.cfg.Journal.Prices(ctx, at)
		if err != nil {
			return err
		}
		lines := bill.Correct(at, affected[at], l.reservations, prices, linesOf(have))
		if len(lines) == 0 {
			continue
		}
		charges := l.charges(lines, billedAt(at, now), journal.CurrencyOf(prices))
		if err := s.cfg.Journal.Correct(ctx, at, len(have), charges); err != nil {
			return err
		}
		s.log.Warn("settled hour corrected by what is known now", "hour", at, "lines", len(charges))
		s.tell(at, charges)
	}
	return nil
}

// wrong lists the usages that were not charged, over all settled hours, for as long as they ran in these.
func (s *Server) wrong(ctx context.Context, l lives, settled map[time.Time]bool) ([]bill.Usage, error) {
	ids := make([]string, 0, len(l.usages))
	for _, u := range l.usages {
		ids = append(ids, u.ID)
	}
	charged, err := s.cfg.Journal.Charged(ctx, ids)
	if err != nil {
		return nil, err
	}
	var wrong []bill.Usage
	for _, u := range l.usages {
		var ran int64
		hours(u, func(at time.Time, n int64) {
			if settled[at] {
				ran += n
			}
		})
		// An end that nobody saw is when the sandbox was last seen. It takes nothing back: it was seen later by who charged it, and the record of
		// that is lost, as after a restore.
		if ran > charged[u.ID] || ran < charged[u.ID] && !l.known[u.ID].Estimated {
			wrong = append(wrong, u)
		}
	}
	return wrong, nil
}

// billedAt is under which hour a correction is billed: its own while that month goes on, for a bill of the past is closed.
func billedAt(hour time.Time, now meter.Instant) time.Time {
	wall := now.Wall.UTC()
	if hour.Year() == wall.Year() && hour.Month() == wall.Month() || hour.After(wall) {
		return hour
	}
	return wall.Truncate(bill.Cycle)
}

func linesOf(charges []journal.Charge) []bill.Line {
	var lines []bill.Line
	for _, c := range charges {
		lines = append(lines, c.Line)
	}
	return lines
}

// charges adds to lines what a bill says of their sandboxes.
func (l lives) charges(lines []bill.Line, billed time.Time, currency journal.Currency) []journal.Charge {
	var charges []journal.Charge
	for _, line := range lines {
		u := l.known[line.Usage]
		charges = append(charges, journal.Charge{
			Line: line, Cluster: u.Cluster, Namespace: u.Namespace, Pod: u.Pod, Workload: u.Workload, Spec: specText(u), SpecType: u.Spec.Type, Billed: billed, Currency: currency,
		})
	}
	return charges
}

// specText is a usage's spec for people.
func specText(u meter.Usage) string {
	if u.Unsized() {
		return unsized
	}
	return u.Spec.String()
}

// tell logs what nobody is charged for.
func (s *Server) tell(hour time.Time, charges []journal.Charge) {
	seconds := map[string]int64{}
	for _, c := range charges {
		if c.Line.Charge == bill.Unpriced {
			seconds[c.Why] += c.Seconds
		}
	}
	for _, why := range slices.Sorted(maps.Keys(seconds)) {
		s.log.Warn("time of Pods has no price; it is on the bill as UNPRICED and costs nothing", "hour", hour, "seconds", seconds[why], "why", why)
	}
}

// open lists the hours in which something ran and which are not settled, the oldest first, between two moments, the second excluded;
// a zero moment is no bound.
func (l lives) open(settled map[time.Time]bool, from, to time.Time) []time.Time {
	open := map[time.Time]bool{}
	for _, u := range l.usages {
		hours(u, func(at time.Time, _ int64) {
			if !settled[at] && !at.Before(from) && (to.IsZero() || at.Before(to)) {
				open[at] = true
			}
		})
	}
	return slices.SortedFunc(maps.Keys(open), time.Time.Compare)
}
