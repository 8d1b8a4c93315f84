// Package meter knows how long each sandbox ran, to the nanosecond. Its Collector takes the records that nodeless-vmm leaves
// (pkg/sandboxrecord) into its Ledger, a SQLite file to which rows are only added; the Ledger answers who used what. pkg/server runs
// the Collector, and asks for Usages to bill them (pkg/bill), to list and to export them.
//
// A life is counted once whatever is killed when: a record stays until it is in the ledger, and is not added again.
package meter

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/sandboxrecord"
	"github.com/nodeless/nodeless/pkg/sqlfile"
)

//go:embed schema.sql
var schema string

//go:embed indexes.sql
var indexes string

// file is the ledger to pkg/sqlfile; its application id is "nlml".
func file() sqlfile.Kind {
	return sqlfile.Kind{Name: "ledger", ApplicationID: 0x6e6c6d6c, Schema: schema, Indexes: indexes,
		Upgrades: []string{"ALTER TABLE starts ADD COLUMN cluster TEXT NOT NULL DEFAULT ''"}}
}

// Ledger is the file of all lives. Several processes may have it open.
type Ledger struct{ db *sql.DB }

// Open opens the ledger at path and makes it, mode 0600, where there is none. The error is sqlfile.ErrNewer or
// sqlfile.ErrForeign when this program must not touch the file.
func Open(ctx context.Context, path string) (*Ledger, error) {
	db, err := sqlfile.Open(ctx, path, file())
	if err != nil {
		return nil, err
	}
	return &Ledger{db}, nil
}

// Close ends the use of the file.
func (l *Ledger) Close() error { return l.db.Close() }

// Life is a sandbox's record as the ledger takes and keeps it.
type Life struct {
	sandboxrecord.Record
	Estimated bool          // nobody saw the end: EndBoot is the last moment at which it was seen to run
	Seen      time.Duration // without an end: when it was last seen to run, since the boot, as the ledger has it; 0 when it was not
}

// Conflict says that a life is not as the ledger has it. The ledger keeps what it has.
type Conflict struct {
	Sandbox string
	Reason  string
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("sandbox %s is in the ledger otherwise: %s", c.Sandbox, c.Reason)
}

// Put adds what the ledger does not have of the lives. When it returns, all of it survives a power cut, or, with an error,
// none was added. Lives that contradict the ledger are left out as a whole and returned.
func (l *Ledger) Put(ctx context.Context, lives ...Life) (conflicts []*Conflict, err error) {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("write to ledger: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	for _, life := range lives {
		if err := life.Validate(); err != nil {
			return nil, fmt.Errorf("write sandbox %s to ledger: %w", life.Sandbox, err)
		}
		conflict, err := put(ctx, tx, life)
		if err != nil {
			return nil, fmt.Errorf("write sandbox %s to ledger: %w", life.Sandbox, err)
		}
		if conflict != nil {
			conflicts = append(conflicts, conflict)
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("write to ledger: %w", err)
	}
	return conflicts, nil
}

// Saw notes when running sandboxes were last seen to run, since the boot of their host. One that the ledger has no start of, or an end, is
// left out, and what was seen later before stays.
func (l *Ledger) Saw(ctx context.Context, seen map[string]time.Duration) error {
	raw, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("write to ledger what runs: %w", err)
	}
	if _, err := l.db.ExecContext(ctx, "INSERT INTO seen (sandbox, at_boot) SELECT key, value FROM json_each(?) WHERE key IN (SELECT sandbox FROM running) "+
		"ON CONFLICT (sandbox) DO UPDATE SET at_boot = max(at_boot, excluded.at_boot)", string(raw)); err != nil {
		return fmt.Errorf("write to ledger what runs: %w", err)
	}
	return nil
}

// put adds what is missing of a life.
func put(ctx context.Context, tx *sql.Tx, life Life) (*Conflict, error) {
	have, known, err := load(ctx, tx, life.Sandbox)
	if err != nil {
		return nil, err
	}
	todo := life
	if known {
		var reason string
		if todo, reason = missing(have, life); reason != "" {
			return &Conflict{life.Sandbox, reason}, nil
		}
	} else if err := insertStart(ctx, tx, life.Record); err != nil {
		return nil, err
	}
	for _, r := range todo.Resizes {
		if _, err := tx.ExecContext(ctx, "INSERT INTO resizes (sandbox, at_boot, spec, spec_type) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			life.Sandbox, int64(r.At), r.Spec, r.SpecType); err != nil {
			return nil, err
		}
	}
	if todo.EndBoot == 0 {
		return nil, nil
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO ends (sandbox, end_boot, end_wall, estimated) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
		life.Sandbox, int64(todo.EndBoot), todo.End().UnixNano(), todo.Estimated)
	return nil, err
}

func insertStart(ctx context.Context, tx *sql.Tx, r sandboxrecord.Record) error {
	tags, err := json.Marshal(r.Tags) // sorted
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO starts ("+startColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		r.Sandbox, r.Cluster, r.Namespace, r.Name, r.UID, r.Workload, r.Node, r.Spec, r.SpecType, r.Charge, string(tags),
		r.BootID, r.QEMU.PID, r.QEMU.Ticks, r.VMM.PID, r.VMM.Ticks, r.Start.UnixNano(), int64(r.StartBoot))
	return err
}

// missing is what has to be added to have for it to say all that want says, or the reason why they contradict each other. An
// end that was estimated where the ledger has one already is no news.
func missing(have, want Life) (todo Life, reason string) {
	todo = want
	todo.Resizes, todo.EndBoot = nil, 0
	if diff := startDiff(have.Record, want.Record); diff != "" {
		return todo, diff
	}
	known := map[time.Duration]sandboxrecord.Resize{}
	for _, r := range have.Resizes {
		known[r.At] = r
	}
	for _, r := range want.Resizes {
		old, ok := known[r.At]
		switch {
		case ok && old != r:
			return todo, fmt.Sprintf("from %v after the boot it has spec %q of type %q, and now %q of type %q", r.At, old.Spec, old.SpecType, r.Spec, r.SpecType)
		case ok:
		case have.EndBoot != 0:
			return todo, fmt.Sprintf("it ended %v after the boot, and now had another spec from %v on", have.EndBoot, r.At)
		default:
			todo.Resizes = append(todo.Resizes, r)
		}
	}
	switch {
	case want.EndBoot == 0 || have.EndBoot == want.EndBoot || have.EndBoot != 0 && want.Estimated:
		return todo, ""
	case have.EndBoot != 0:
		return todo, fmt.Sprintf("it ended %v after the boot (estimated: %t), and now %v", have.EndBoot, have.Estimated, want.EndBoot)
	}
	todo.EndBoot = want.EndBoot
	for _, r := range have.Resizes {
		switch {
		case r.At <= todo.EndBoot:
		case want.Estimated: // it ran when it got another spec
			todo.EndBoot = r.At
		default:
			return todo, fmt.Sprintf("it has another spec from %v after the boot on, and now ended before, at %v", r.At, want.EndBoot)
		}
	}
	return todo, ""
}

// startDiff names what differs in two starts of one sandbox.
func startDiff(have, want sandboxrecord.Record) string {
	text := func(r sandboxrecord.Record) string {
		r.Resizes, r.EndBoot = nil, 0
		r.Start = time.Unix(0, r.Start.UnixNano()).UTC() // the moment alone counts
		if len(r.Tags) == 0 {
			r.Tags = nil
		}
		raw, err := json.Marshal(r) // maps are sorted
		if err != nil {
			return err.Error()
		}
		return string(raw)
	}
	if h, w := text(have), text(want); h != w {
		return fmt.Sprintf("its start is %s, and now %s", h, w)
	}
	return ""
}
