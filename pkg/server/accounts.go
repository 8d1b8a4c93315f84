package server

import (
	"context"
	"errors"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/server/billing"
)

// accounts are the files of how long Pods ran and what that costs.
type accounts struct {
	ledger  *meter.Ledger
	journal *journal.Journal
	clock   meter.Clock
	totals  *meter.Totals // what /metrics says of the ledger
}

// openAccounts opens both files and makes those that are not there. A server that cannot keep accounts does not start.
func openAccounts(ctx context.Context, data datadir.Dir) (a accounts, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.clock, err = meter.SystemClock(); err != nil {
		return a, err
	}
	if a.ledger, err = meter.Open(ctx, data.Ledger()); err != nil {
		return a, err
	}
	if a.journal, err = journal.Open(ctx, data.Bills()); err != nil {
		return a, err
	}
	a.totals = meter.NewTotals(a.ledger, a.clock)
	return a, legacyregistry.Registerer().Register(a.totals) // the apiserver's /metrics
}

func (a accounts) close() error {
	var errs []error
	if a.totals != nil {
		legacyregistry.Registerer().Unregister(a.totals)
	}
	if a.ledger != nil {
		errs = append(errs, a.ledger.Close())
	}
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	return errors.Join(errs...)
}

// held are the reservations for which the scheduler keeps places free.
func (a accounts) held(ctx context.Context) ([]bill.Reservation, error) {
	return a.journal.Held(ctx, a.clock().Wall)
}

func (c Config) collector(a accounts) meter.Config {
	return meter.Config{Dir: sandboxrecord.Dir(c.Data.SandboxRecords()), Clock: a.clock}
}

func (c Config) billing(a accounts) billing.Config {
	return billing.Config{Ledger: a.ledger, Journal: a.journal, Catalog: c.Serverless.Catalog, Prices: c.Serverless.Prices, Clock: a.clock}
}
