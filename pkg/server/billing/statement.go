package billing

import (
	"context"
	"slices"
	"time"

	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
)

// pending is what is not settled yet.
type pending struct {
	charges []journal.Charge // as they would be if it was settled now
	until   time.Time        // all hours before are settled
}

// pending settles, without writing it down, what ran between two moments, the second excluded, in some namespaces or, when that is nil,
// in all. A zero moment is no bound. What comes late to an hour that is over is not in it before it is settled. s.mu is held.
func (s *Server) pending(ctx context.Context, from, to time.Time, namespaces []string) (pending, error) {
	now := s.cfg.Clock()
	settled, err := s.settled(ctx)
	if err != nil {
		return pending{}, err
	}
	if open := s.open(now); from.Before(open) { // no more of the ledger is read than has to be: tenants ask for this
		from = open
	}
	l, err := s.lives(ctx, from, time.Time{}, now)
	if err != nil {
		return pending{}, err
	}
	p := pending{until: over(now)}
	for _, at := range l.open(settled, from, to) {
		if at.Before(p.until) {
			p.until = at
		}
		for _, c := range l.charges(bill.Settle(at, l.usages, l.reservations, s.cfg.Prices), at, s.currency()) {
			if namespaces == nil || slices.Contains(namespaces, c.Namespace) {
				p.charges = append(p.charges, c)
			}
		}
	}
	return p, nil
}

// mostLines is how many settled lines, each of a workload on a day, a list of bills has at most. Where there are more a line is of all
// workloads: the totals stay what they are.
const mostLines = 20000

// Statement is what is on the bills of a time.
type Statement struct {
	Settled []journal.Sum // does not change any more
	Pending []journal.Sum // what would be if it was settled as it is now
	Until   time.Time     // all hours before are settled
}

// Statement adds up, by day, namespace and kind, what is on the bills of a time, which is whole hours, the end excluded, for some
// namespaces or, when that is nil, for all. A zero moment is no bound.
func (s *Server) Statement(ctx context.Context, from, to time.Time, namespaces []string) (Statement, error) {
	// An hour is settled either before both looks or after them: in between it would be there twice or not at all.
	s.mu.Lock()
	defer s.mu.Unlock()
	sums, err := s.cfg.Journal.DailyUpTo(ctx, from, to, namespaces, mostLines)
	if err != nil {
		return Statement{}, err
	}
	open, err := s.pending(ctx, from, to, namespaces)
	if err != nil {
		return Statement{}, err
	}
	return Statement{Settled: sums, Pending: daily(open.charges), Until: open.until}, nil
}

// daily adds charges up as Journal.DailyUpTo does, in the order of their hours.
func daily(charges []journal.Charge) []journal.Sum {
	var sums []journal.Sum
	at := map[journal.Sum]int{}
	for _, c := range charges {
		kind := journal.Sum{
			Day: c.Billed.UTC().Truncate(24 * time.Hour), Cluster: c.Cluster, Namespace: c.Namespace, Workload: c.Workload, Spec: c.Spec, SpecType: c.SpecType,
			Charge: string(c.Line.Charge), Currency: c.Currency,
		}
		i, ok := at[kind]
		if !ok {
			i = len(sums)
			at[kind] = i
			sums = append(sums, kind)
		}
		sums[i].Seconds += c.Seconds
		sums[i].Amount += c.Amount
	}
	return sums
}
