// Package billing turns the ledger of pkg/meter into bills: it settles each hour once it is over, keeps reservations, and serves
// usages, bills and reservations as the API billing.nodeless.dev. Like pkg/server/metrics it is no apiserver of its own but a group of
// the one in this process (docs/adr/0019): pkg/server gives Group to pkg/server/apiserver and starts the component after the
// meter's Collector.
package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/fair"
	"github.com/nodeless/nodeless/pkg/meter"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// interval is the pause between two looks at the clock.
	interval = time.Minute
	// grace is how long after its end an hour is settled: by then the ledger has what happened in it.
	grace = 2 * time.Minute
	// memory is how long before the last settlement a sandbox may have ended whose charges are compared with the ledger once more. Where
	// nothing was settled yet all are.
	memory = 35 * 24 * time.Hour
)

// Config is what the component needs to know. Files stay open when it ends.
type Config struct {
	Ledger   Ledger
	Journal  *journal.Journal
	Catalog  podsize.Catalog
	Prices   price.Table
	Clock    meter.Clock
	Interval time.Duration // a minute when zero
}

// Ledger is what is asked of the ledger: a *meter.Ledger.
type Ledger interface {
	Usages(ctx context.Context, from, to time.Time, f meter.Filter) ([]meter.Usage, error)
	Page(ctx context.Context, from, to time.Time, f meter.Filter, after meter.Mark, most int) ([]meter.Usage, *meter.Mark, error)
	Named(ctx context.Context, prefix string, f meter.Filter) ([]meter.Usage, error)
}

var _ Ledger = (*meter.Ledger)(nil)

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for what, missing := range map[string]bool{"ledger": c.Ledger == nil, "journal": c.Journal == nil, "clock": c.Clock == nil, "prices": c.Prices.Currency == ""} {
		if missing {
			errs = append(errs, fmt.Errorf("billing: no %s", what))
		}
	}
	if c.Interval < 0 {
		errs = append(errs, fmt.Errorf("billing: an interval of %v", c.Interval))
	}
	return errors.Join(errs...)
}

// Server is the component.
type Server struct {
	cfg Config
	log *slog.Logger

	turns *fair.Limiter // of the requests that read, by namespace

	mu   sync.Mutex // held while something is settled or corrected
	last time.Time  // when all that was known was settled, by the wall clock; zero before that; guarded by mu
}

var _ run.Component = (*Server)(nil)

// New gives a component that has not touched anything yet. Its API works at once.
func New(cfg Config, log *slog.Logger) *Server {
	if cfg.Interval == 0 {
		cfg.Interval = interval
	}
	return &Server{cfg: cfg, log: log, turns: newTurns()}
}

// Name is "billing".
func (s *Server) Name() string { return "billing" }

// Run settles hours as they end, until ctx ends. What stands in the way, such as a full disk, is logged and tried again: nothing is lost
// but time.
func (s *Server) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	ticker := time.NewTicker(s.cfg.Interval)
	defer ticker.Stop()
	var done time.Time
	var fault string
	for {
		now := s.cfg.Clock()
		if due := over(now); !due.Equal(done) {
			err := s.Settle(ctx, now)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				done, fault = due, ""
			case err.Error() != fault:
				fault = err.Error()
				s.log.Error("hours cannot be settled; it is tried again every minute, see that the disk has room and is writable", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// since is from when on the ledger may have something that is not settled. It is zero when that is not known.
func (s *Server) since(now meter.Instant) time.Time {
	if s.last.IsZero() {
		return time.Time{}
	}
	earliest := now.Wall
	if s.last.Before(earliest) { // the clock may have been set forward meanwhile
		earliest = s.last
	}
	return earliest.Add(-memory).UTC().Truncate(time.Hour)
}

// open is from when on hours may not be settled, but for what comes late; zero when that is not known.
func (s *Server) open(now meter.Instant) time.Time {
	switch {
	case s.last.IsZero():
		return time.Time{}
	case s.last.Before(now.Wall):
		return over(meter.Instant{Wall: s.last})
	}
	return over(now)
}

// over is the end of the last hour that is over for long enough to be settled.
func over(now meter.Instant) time.Time {
	return now.Wall.Add(-grace).UTC().Truncate(time.Hour)
}

func (s *Server) currency() journal.Currency {
	return journal.CurrencyOf(s.cfg.Prices)
}
