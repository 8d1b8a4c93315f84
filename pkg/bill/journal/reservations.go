package journal

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

// State is what has become of a reservation.
type State string

// The states, by the cloud's names.
const (
	Active   State = "Active"
	Expired  State = "Expired"
	Refunded State = "Refunded"
)

// NoReason is how long after it was bought one reservation can be given back for all that was paid. There is one such refund.
const NoReason = 5 * 24 * time.Hour

// Reservation is a reservation that was bought.
type Reservation struct {
	ID           string // "eksri-" and eight digits of hexadecimal
	Namespace    string // whose Pods it pays for; empty for those of the whole cluster
	Name         string // no two in a namespace have one, unless refunded; those of the cluster are in kube-system in this
	Size         podsize.Size
	Node         string // the only one it pays on; empty for all
	Months       int
	From, Until  time.Time    // in whole seconds; Until is the first moment at which it is not valid any more
	Paid, List   price.Amount // List before the factor of its term
	Currency     Currency
	HoldCapacity bool

	RefundedAt time.Time // zero when it was not; behind Until when it was put away after its end
	Refund     price.Amount
}

// State is what has become of it by now.
func (r Reservation) State(now time.Time) State {
	switch {
	case !r.RefundedAt.IsZero() && r.RefundedAt.Before(r.Until):
		return Refunded
	case !now.Before(r.Until):
		return Expired
	}
	return Active
}

// Terms is how it pays. One that was refunded pays for no part of the hour in which it was.
func (r Reservation) Terms() bill.Reservation {
	c := bill.Reservation{ID: r.ID, Size: r.Size, Node: r.Node, Namespace: r.Namespace, From: r.From, Until: r.Until}
	if !r.RefundedAt.IsZero() && r.RefundedAt.Before(c.Until) {
		c.Until = r.RefundedAt.Truncate(bill.Cycle)
	}
	return c
}

// NewID is a random ID.
func NewID() string {
	var raw [4]byte
	rand.Read(raw[:]) //nolint:errcheck // it does not fail
	return "eksri-" + hex.EncodeToString(raw[:])
}

// Buy writes a reservation down. The error is ErrExists when there is one of its name that is not refunded, or of its ID.
func (j *Journal) Buy(ctx context.Context, r Reservation) error {
	defer j.held.forget()
	if err := j.buy(ctx, r); err != nil {
		return fmt.Errorf("buy reservation %q: %w", r.Name, err)
	}
	return nil
}

func (j *Journal) buy(ctx context.Context, r Reservation) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM reservations r LEFT JOIN refunds f USING (id) WHERE r.id = ? OR f.id IS NULL AND name = ? AND "+
		"coalesce(nullif(namespace, ''), 'kube-system') = coalesce(nullif(?, ''), 'kube-system')", r.ID, r.Name, r.Namespace).Scan(&n); err != nil {
		return err
	}
	if n > 0 {
		return ErrExists
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO reservations ("+reservationColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		r.ID, r.Namespace, r.Name, r.Size.String(), r.Size.Type, r.Node, r.Months, r.From.Unix(), r.Until.Unix(), int64(r.Paid), int64(r.List),
		r.Currency.Code, r.Currency.Digits, r.HoldCapacity); err != nil {
		return err
	}
	return tx.Commit()
}

const reservationColumns = "id, namespace, name, spec, spec_type, node, months, valid_from, valid_until, paid, list, currency, digits, hold"

// Refund ends a reservation and says what is given back: all for the first within five days of its purchase, else what
// bill.Refund says. One that has expired is put away, for nothing. The error is ErrUnknown, or ErrEnded when that was done before.
func (j *Journal) Refund(ctx context.Context, id string, now time.Time) (price.Amount, error) {
	defer j.held.forget()
	amount, err := j.refund(ctx, id, now)
	if err != nil {
		return 0, fmt.Errorf("refund reservation %s: %w", id, err)
	}
	return amount, nil
}

func (j *Journal) refund(ctx context.Context, id string, now time.Time) (price.Amount, error) {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	found, err := reservations(ctx, tx, "WHERE r.id = ?", id)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, ErrUnknown
	}
	r := found[0]
	if !r.RefundedAt.IsZero() {
		return 0, ErrEnded
	}
	amount, noReason := bill.Refund(r.Terms(), r.Paid, now), false
	if now.Sub(r.From) <= NoReason {
		var given int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM refunds WHERE no_reason = 1").Scan(&given); err != nil {
			return 0, err
		}
		if given == 0 {
			amount, noReason = r.Paid, true
		}
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO refunds (id, at, amount, no_reason) VALUES (?, ?, ?, ?)", id, now.Unix(), int64(amount), noReason); err != nil {
		return 0, err
	}
	return amount, tx.Commit()
}

// Reservations lists all that were ever bought, the oldest first.
func (j *Journal) Reservations(ctx context.Context) ([]Reservation, error) {
	found, err := reservations(ctx, j.db, "")
	if err != nil {
		return nil, fmt.Errorf("list reservations: %w", err)
	}
	return found, nil
}

// Terms lists how all that were ever bought pay.
func (j *Journal) Terms(ctx context.Context) ([]bill.Reservation, error) {
	found, err := j.Reservations(ctx)
	var reservations []bill.Reservation
	for _, r := range found {
		reservations = append(reservations, r.Terms())
	}
	return reservations, err
}

// fresh is for how long the reservations that Held has read are good, should another process change them.
const fresh = 5 * time.Second

// holding is what Held has read.
type holding struct {
	mu    sync.Mutex
	known []Reservation // guarded by mu
	until time.Time     // up to when it is good; guarded by mu
}

// forget has the next Held read.
func (h *holding) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = time.Time{}
}

// Held lists the reservations that are valid and keep a place free. The scheduler asks for each Pod: what this process has not changed is
// read again after some seconds only.
func (j *Journal) Held(ctx context.Context, now time.Time) ([]bill.Reservation, error) {
	j.held.mu.Lock()
	defer j.held.mu.Unlock()
	if at := time.Now(); !at.Before(j.held.until) {
		found, err := j.Reservations(ctx)
		if err != nil {
			return nil, err
		}
		j.held.known, j.held.until = found, at.Add(fresh)
	}
	var reservations []bill.Reservation
	for _, r := range j.held.known {
		if r.HoldCapacity && r.State(now) == Active {
			reservations = append(reservations, r.Terms())
		}
	}
	return reservations, nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func reservations(ctx context.Context, db querier, where string, args ...any) ([]Reservation, error) {
	rows, err := db.QueryContext(ctx, "SELECT "+reservationColumns+", f.at, f.amount FROM reservations r LEFT JOIN refunds f USING (id) "+where+" ORDER BY valid_from, id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []Reservation
	for rows.Next() {
		var r Reservation
		var text, kind string
		var from, until, paid, list int64
		var at, refund sql.NullInt64
		if err := rows.Scan(&r.ID, &r.Namespace, &r.Name, &text, &kind, &r.Node, &r.Months, &from, &until, &paid, &list, &r.Currency.Code, &r.Currency.Digits,
			&r.HoldCapacity, &at, &refund); err != nil {
			return nil, err
		}
		if r.Size, err = podsize.ParseSize(text, kind); err != nil {
			return nil, errors.Join(fmt.Errorf("reservation %s", r.ID), err)
		}
		r.From, r.Until, r.Paid, r.List = time.Unix(from, 0).UTC(), time.Unix(until, 0).UTC(), price.Amount(paid), price.Amount(list)
		if at.Valid {
			r.RefundedAt, r.Refund = time.Unix(at.Int64, 0).UTC(), price.Amount(refund.Int64)
		}
		found = append(found, r)
	}
	return found, rows.Err()
}
