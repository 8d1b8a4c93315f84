// Package journal keeps what was charged and what was bought, in a SQLite file to which rows are only added. pkg/server/billing
// settles into it, buys and refunds reservations in it, and lists bills from it.
//
// An hour is settled in one transaction, and once: whatever is killed when, no line is missing and none is there twice.
package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/sqlfile"
)

//go:embed schema.sql
var schema string

//go:embed indexes.sql
var indexes string

// Errors of the journal.
var (
	ErrSettled = errors.New("the hour is settled otherwise")
	ErrChanged = errors.New("the hour was corrected by somebody else")
	ErrExists  = errors.New("there is one of this name")
	ErrUnknown = errors.New("there is no such reservation")
	ErrEnded   = errors.New("it was given back before")
)

// Journal is the file. Several processes may have it open.
type Journal struct {
	db   *sql.DB
	held holding
}

// Open opens the journal in a file and makes it, mode 0600, where there is none. The error is sqlfile.ErrNewer or
// sqlfile.ErrForeign when this program must not touch the file.
func Open(ctx context.Context, file string) (*Journal, error) {
	// The application id is "nlbi".
	db, err := sqlfile.Open(ctx, file, sqlfile.Kind{Name: "journal", ApplicationID: 0x6e6c6269, Schema: schema, Indexes: indexes,
		Upgrades: []string{"ALTER TABLE charges ADD COLUMN cluster TEXT NOT NULL DEFAULT ''"}})
	if err != nil {
		return nil, err
	}
	return &Journal{db: db}, nil
}

// Close ends the use of the file.
func (j *Journal) Close() error { return j.db.Close() }

// Currency is what amounts are in.
type Currency struct {
	Code   string `json:"code"`   // ISO 4217
	Digits int    `json:"digits"` // decimals of its smallest unit on a bill
}

// CurrencyOf is the currency of a table of prices.
func CurrencyOf(t price.Table) Currency { return Currency{Code: t.Currency, Digits: t.Digits} }

// Charge is a line of a bill with what the reader of a bill wants to know of the sandbox.
type Charge struct {
	bill.Line
	Cluster                  string `json:",omitempty"` // its id; empty for what ran before clusters had one
	Namespace, Pod, Workload string
	Spec, SpecType           string // "unsized" and nothing when it is not known
	Billed                   time.Time
	Currency                 Currency
}

// Cycle is an hour to settle.
type Cycle struct {
	Hour   time.Time
	Prices price.Table // by which it is settled, and corrected whenever that may be
	Now    time.Time
}

// Settle writes the charges of an hour, which may be none, in one transaction. An hour that was settled with the same charges is left as
// it is; when they are others the error is ErrSettled.
func (j *Journal) Settle(ctx context.Context, c Cycle, charges []Charge) error {
	if err := j.settle(ctx, c, charges); err != nil {
		return fmt.Errorf("settle %s: %w", c.Hour.UTC().Format(time.RFC3339), err)
	}
	return nil
}

func (j *Journal) settle(ctx context.Context, c Cycle, charges []Charge) error {
	if !c.Hour.Equal(c.Hour.Truncate(bill.Cycle)) {
		return errors.New("want a whole hour")
	}
	prices, err := c.Prices.Text()
	if err != nil {
		return err
	}
	content, err := digest(prices, charges)
	if err != nil {
		return err
	}
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var have string
	switch err := tx.QueryRowContext(ctx, "SELECT content FROM cycles WHERE cycle = ?", c.Hour.Unix()).Scan(&have); {
	case err == nil && have == content:
		return nil
	case err == nil:
		return ErrSettled
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO prices (content) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM prices WHERE content = ?1)", prices); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO cycles (cycle, settled, prices, content) SELECT ?, ?, id, ? FROM prices WHERE content = ?",
		c.Hour.Unix(), c.Now.Unix(), content, prices); err != nil {
		return err
	}
	if err := insert(ctx, tx, c.Hour, 0, charges); err != nil {
		return err
	}
	return tx.Commit()
}

// digest tells contents of an hour apart.
func digest(prices string, charges []Charge) (string, error) {
	raw, err := json.Marshal(struct {
		Prices  string
		Charges []Charge
	}{prices, charges})
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), err
}

// Correct adds charges to an hour that is settled and has so many lines. With another number of lines the error is ErrChanged.
func (j *Journal) Correct(ctx context.Context, hour time.Time, lines int, charges []Charge) error {
	if err := j.correct(ctx, hour, lines, charges); err != nil {
		return fmt.Errorf("correct %s: %w", hour.UTC().Format(time.RFC3339), err)
	}
	return nil
}

func (j *Journal) correct(ctx context.Context, hour time.Time, lines int, charges []Charge) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var have int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM charges WHERE cycle = ?", hour.Unix()).Scan(&have); err != nil {
		return err
	}
	if have != lines {
		return fmt.Errorf("%w: it has %d lines, and not %d", ErrChanged, have, lines)
	}
	if err := insert(ctx, tx, hour, lines, charges); err != nil {
		return err
	}
	return tx.Commit()
}

func insert(ctx context.Context, tx *sql.Tx, hour time.Time, first int, charges []Charge) error {
	for i, c := range charges {
		if !c.Cycle.Equal(hour) {
			return fmt.Errorf("a line of %s", c.Cycle.UTC().Format(time.RFC3339))
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO charges ("+chargeColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			hour.Unix(), first+i, c.Billed.Unix(), c.Usage, c.Cluster, c.Namespace, c.Pod, c.Workload, c.Spec, c.SpecType, string(c.Charge), c.Reservation,
			c.Seconds, int64(c.Amount), c.Currency.Code, c.Currency.Digits, c.Why); err != nil {
			return err
		}
	}
	return nil
}

const chargeColumns = "cycle, line, billed, usage, cluster, namespace, pod, workload, spec, spec_type, charge, coupon, seconds, amount, currency, digits, why"

// billed is the condition of what is on the bills of a time, such that there is an index for it.
func billed(from, to time.Time, namespaces []string) (where string, args []any, err error) {
	where, args = "billed >= ? AND billed < ?", []any{low(from), high(to)}
	if namespaces == nil {
		return where, args, nil
	}
	names, err := json.Marshal(namespaces)
	return "namespace IN (SELECT value FROM json_each(?)) AND " + where, append([]any{string(names)}, args...), err
}

// Hour lists the charges for the time of one hour, in the order of their lines.
func (j *Journal) Hour(ctx context.Context, hour time.Time) ([]Charge, error) {
	return j.charges(ctx, "cycle = ?", hour.Unix())
}

// low and high are moments in the tables. Nothing there is before the year 0 or after 9999.
func low(t time.Time) int64 {
	if t.IsZero() {
		return -1 << 40
	}
	return t.Unix()
}

func high(t time.Time) int64 {
	if t.IsZero() {
		return 1 << 40
	}
	return t.Unix()
}

func (j *Journal) charges(ctx context.Context, where string, args ...any) (found []Charge, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list charges: %w", err)
		}
	}()
	rows, err := j.db.QueryContext(ctx, "SELECT "+chargeColumns+" FROM charges WHERE "+where+" ORDER BY billed, cycle, line", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Charge
		var cycle, line, billed, amount int64
		if err := rows.Scan(&cycle, &line, &billed, &c.Usage, &c.Cluster, &c.Namespace, &c.Pod, &c.Workload, &c.Spec, &c.SpecType, &c.Charge, &c.Reservation,
			&c.Seconds, &amount, &c.Currency.Code, &c.Currency.Digits, &c.Why); err != nil {
			return nil, err
		}
		c.Cycle, c.Billed, c.Amount = time.Unix(cycle, 0).UTC(), time.Unix(billed, 0).UTC(), price.Amount(amount)
		found = append(found, c)
	}
	return found, rows.Err()
}

// Sum is what the lines of one kind on a day come to.
type Sum struct {
	Day                                         time.Time // its beginning, in UTC
	Cluster                                     string
	Namespace, Workload, Spec, SpecType, Charge string
	Currency                                    Currency
	Seconds                                     int64
	Amount                                      price.Amount
}

// DailyUpTo adds up what is on the bills of a time, by day, namespace and kind, in the order of these. The time is whole hours, the end
// excluded; a zero moment is no bound. It takes some namespaces, or all when that is nil. If it comes to more than most, or comes from ten
// times as many charges, all workloads of a day are one, called Many. So what comes back stays small, however many names somebody gave to
// theirs.
func (j *Journal) DailyUpTo(ctx context.Context, from, to time.Time, namespaces []string, most int) ([]Sum, error) {
	where, args, err := billed(from, to, namespaces)
	if err != nil {
		return nil, fmt.Errorf("add charges up: %w", err)
	}
	lines := 0
	if err := j.db.QueryRowContext(ctx, "SELECT count(*) FROM (SELECT 1 FROM charges WHERE "+where+" LIMIT ?)", append(args, 10*most+1)...).Scan(&lines); err != nil {
		return nil, fmt.Errorf("count charges: %w", err)
	}
	if lines <= 10*most { // more are not even added up by workload
		sums, err := j.daily(ctx, from, to, namespaces, "workload", most+1)
		if err != nil || len(sums) <= most {
			return sums, err
		}
	}
	return j.daily(ctx, from, to, namespaces, "'"+Many+"'", -1)
}

// Many is the workload of a sum of all.
const Many = "(many)"

func (j *Journal) daily(ctx context.Context, from, to time.Time, namespaces []string, workload string, most int) (sums []Sum, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("add charges up: %w", err)
		}
	}()
	where, args, err := billed(from, to, namespaces)
	if err != nil {
		return nil, err
	}
	rows, err := j.db.QueryContext(ctx, "SELECT billed - ((billed % 86400) + 86400) % 86400 AS day, cluster, namespace, "+workload+" AS of, spec, spec_type, charge, currency, digits, sum(seconds), sum(amount) "+
		"FROM charges WHERE "+where+" GROUP BY day, cluster, namespace, of, spec, spec_type, charge, currency, digits "+
		"ORDER BY day, cluster, namespace, of, spec, spec_type, charge, currency, digits LIMIT ?", append(args, most)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s Sum
		var day, amount int64
		if err := rows.Scan(&day, &s.Cluster, &s.Namespace, &s.Workload, &s.Spec, &s.SpecType, &s.Charge, &s.Currency.Code, &s.Currency.Digits, &s.Seconds, &amount); err != nil {
			return nil, err
		}
		s.Day, s.Amount = time.Unix(day, 0).UTC(), price.Amount(amount)
		sums = append(sums, s)
	}
	return sums, rows.Err()
}

// Charged tells for how many seconds each of some usages was charged. Those that never were are left out.
func (j *Journal) Charged(ctx context.Context, usages []string) (map[string]int64, error) {
	names, err := json.Marshal(usages)
	if err != nil {
		return nil, fmt.Errorf("add charges up: %w", err)
	}
	rows, err := j.db.QueryContext(ctx, "SELECT usage, sum(seconds) FROM charges WHERE usage IN (SELECT value FROM json_each(?)) GROUP BY usage", string(names))
	if err != nil {
		return nil, fmt.Errorf("add charges up: %w", err)
	}
	defer rows.Close()
	sums := map[string]int64{}
	for rows.Next() {
		var id string
		var sum int64
		if err := rows.Scan(&id, &sum); err != nil {
			return nil, fmt.Errorf("add charges up: %w", err)
		}
		sums[id] = sum
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("add charges up: %w", err)
	}
	return sums, nil
}

// Mark notes up to when all that was known is settled.
func (j *Journal) Mark(ctx context.Context, at time.Time) error {
	if _, err := j.db.ExecContext(ctx, "INSERT INTO mark (one, at) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET at = excluded.at", at.Unix()); err != nil {
		return fmt.Errorf("note what is settled: %w", err)
	}
	return nil
}

// Marked is the last Mark, the zero moment without one.
func (j *Journal) Marked(ctx context.Context) (time.Time, error) {
	var at int64
	switch err := j.db.QueryRowContext(ctx, "SELECT at FROM mark").Scan(&at); {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read what is settled: %w", err)
	}
	return time.Unix(at, 0).UTC(), nil
}

// Prices are those by which an hour was settled.
func (j *Journal) Prices(ctx context.Context, hour time.Time) (price.Table, error) {
	table, err := j.prices(ctx, hour)
	if err != nil {
		return price.Table{}, fmt.Errorf("read prices of %s: %w", hour.UTC().Format(time.RFC3339), err)
	}
	return table, nil
}

func (j *Journal) prices(ctx context.Context, hour time.Time) (price.Table, error) {
	var text string
	query := "SELECT prices.content FROM cycles JOIN prices ON prices.id = cycles.prices WHERE cycle = ?"
	if err := j.db.QueryRowContext(ctx, query, hour.Unix()).Scan(&text); err != nil {
		return price.Table{}, err
	}
	return price.ParseText(text)
}

// Hours lists the hours for which a usage was charged.
func (j *Journal) Hours(ctx context.Context, usage string) ([]time.Time, error) {
	return j.moments(ctx, "SELECT DISTINCT cycle FROM charges WHERE usage = ? ORDER BY cycle", usage)
}

// Settled lists the settled hours between two moments, the second excluded; a zero moment is no bound.
func (j *Journal) Settled(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	return j.moments(ctx, "SELECT cycle FROM cycles WHERE cycle >= ? AND cycle < ? ORDER BY cycle", low(from), high(to))
}

func (j *Journal) moments(ctx context.Context, query string, args ...any) ([]time.Time, error) {
	rows, err := j.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list hours: %w", err)
	}
	defer rows.Close()
	var found []time.Time
	for rows.Next() {
		var at int64
		if err := rows.Scan(&at); err != nil {
			return nil, fmt.Errorf("list hours: %w", err)
		}
		found = append(found, time.Unix(at, 0).UTC())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list hours: %w", err)
	}
	return found, nil
}
