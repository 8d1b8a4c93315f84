package meter

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

const startColumns = "sandbox, cluster, namespace, pod, pod_uid, workload, node, spec, spec_type, charge, tags, " +
	"boot_id, qemu_pid, qemu_ticks, vmm_pid, vmm_ticks, start_wall, start_boot"

// lifeColumns, what the lives are taken from, and lifeJoins are one statement, which thus sees one state of the ledger. It gives a row
// for each resize of each life, and one row for a life without any.
const lifeColumns = "SELECT s.sandbox, s.cluster, s.namespace, s.pod, s.pod_uid, s.workload, s.node, s.spec, s.spec_type, s.charge, s.tags, " +
	"s.boot_id, s.qemu_pid, s.qemu_ticks, s.vmm_pid, s.vmm_ticks, s.start_wall, s.start_boot, e.end_boot, e.estimated, n.at_boot, r.at_boot, r.spec, r.spec_type FROM "

const lifeJoins = " LEFT JOIN ends e ON e.sandbox = s.sandbox LEFT JOIN seen n ON n.sandbox = s.sandbox LEFT JOIN resizes r ON r.sandbox = s.sandbox "

// allStarts has lives found among all.
const allStarts = "starts s"

const lifeOrder = " ORDER BY s.start_wall, s.sandbox, r.at_boot"

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// load gives what the ledger has of a sandbox.
func load(ctx context.Context, db querier, sandbox string) (Life, bool, error) {
	found, err := lives(ctx, db, "WHERE s.sandbox = ?", sandbox)
	if err != nil || len(found) == 0 {
		return Life{}, false, err
	}
	return found[0], true, nil
}

// lives reads whole lives, the oldest first.
func lives(ctx context.Context, db querier, where string, args ...any) (all []Life, err error) {
	err = eachLife(ctx, db, allStarts, where, args, func(life Life) bool {
		all = append(all, life)
		return true
	})
	return all, err
}

// eachLife reads whole lives, the oldest first, until f does not want more. from has the table starts as s.
func eachLife(ctx context.Context, db querier, from, where string, args []any, f func(Life) bool) error {
	rows, err := db.QueryContext(ctx, lifeColumns+from+lifeJoins+where+lifeOrder, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var whole *Life
	for rows.Next() {
		life, resize, err := scanLife(rows)
		if err != nil {
			return err
		}
		if whole == nil || whole.Sandbox != life.Sandbox {
			if whole != nil && !f(*whole) {
				return nil
			}
			whole = &life
		}
		if resize != nil {
			whole.Resizes = append(whole.Resizes, *resize)
		}
	}
	if err := rows.Err(); err != nil || whole == nil {
		return err
	}
	f(*whole)
	return nil
}

func scanLife(rows *sql.Rows) (life Life, resize *sandboxrecord.Resize, err error) {
	r := &life.Record
	var tags string
	var startWall int64
	var end, estimated, seen, at sql.NullInt64
	var newSpec, newType sql.NullString
	if err := rows.Scan(&r.Sandbox, &r.Cluster, &r.Namespace, &r.Name, &r.UID, &r.Workload, &r.Node, &r.Spec, &r.SpecType, &r.Charge, &tags,
		&r.BootID, &r.QEMU.PID, &r.QEMU.Ticks, &r.VMM.PID, &r.VMM.Ticks, &startWall, &r.StartBoot, &end, &estimated, &seen, &at, &newSpec, &newType); err != nil {
		return life, nil, err
	}
	if err := json.Unmarshal([]byte(tags), &r.Tags); err != nil {
		return life, nil, fmt.Errorf("tags of sandbox %s: %w", r.Sandbox, err)
	}
	r.Start, r.EndBoot, life.Estimated = time.Unix(0, startWall).UTC(), time.Duration(end.Int64), estimated.Int64 != 0
	life.Seen = time.Duration(seen.Int64)
	if at.Valid {
		resize = &sandboxrecord.Resize{At: time.Duration(at.Int64), Spec: newSpec.String, SpecType: newType.String}
	}
	return life, resize, nil
}

// Running lists the lives whose end the ledger does not have, the oldest first.
func (l *Ledger) Running(ctx context.Context) ([]Life, error) {
	found, err := lives(ctx, l.db, "WHERE s.sandbox IN (SELECT sandbox FROM running)")
	if err != nil {
		return nil, fmt.Errorf("list running sandboxes of the ledger: %w", err)
	}
	return found, nil
}

// Usage is a sandbox for the time that it had one spec.
type Usage struct {
	Sandbox string // its id; no other has it
	Stretch int    // counts the specs that the sandbox had, from 0

	Cluster                                string // its id; empty for what ran before clusters had one
	Namespace, Pod, PodUID, Workload, Node string // empty where it was not known

	Spec   podsize.Size // the zero Size when the Pod had none, or none that can be read: see Unsized
	Charge string       // as api.ChargeType; may be empty
	Tags   map[string]string

	Start, End time.Time // UTC; End is zero while it runs
	Seen       time.Time // up to when it is known to have run, as the ledger has it; zero once it has ended, or when nobody has seen it yet
	Estimated  bool      // nobody saw the end: End is the last moment at which it was seen to run

	BootID    string        // of the host
	StartBoot time.Duration // Start, since the boot of the host
}

// Unsized tells whether it is not known what the sandbox had. There is no price for it.
func (u Usage) Unsized() bool { return u.Spec == podsize.Size{} }

// Until is how long it has run by now. For a sandbox that runs on the host of which now is, the wall clock does not count.
func (u Usage) Until(now Instant) time.Duration {
	switch {
	case !u.End.IsZero():
		return u.End.Sub(u.Start)
	case u.BootID == now.BootID:
		return max(0, now.Boot-u.StartBoot)
	}
	return max(0, now.Wall.Sub(u.Start))
}

// Filter narrows what Usages lists.
type Filter struct {
	Namespaces []string // of these; nil for all
}

// Usages lists what ran between two moments, the second excluded; a zero moment is no bound. They are whole: they may begin
// before and end after. The order is that of the starts.
func (l *Ledger) Usages(ctx context.Context, from, to time.Time, f Filter) ([]Usage, error) {
	low, high := bounds(from, to)
	var all []Usage
	err := l.between(ctx, low, high, f, Mark{}, func(life Life) bool {
		for _, u := range stretches(life) {
			if within(u, low, high) {
				all = append(all, u)
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list usages: %w", err)
	}
	return all, nil
}

// stretches parts a life by the specs that it had.
func stretches(life Life) []Usage {
	r := life.Record
	u := Usage{
		Sandbox: r.Sandbox, Cluster: r.Cluster, Namespace: r.Namespace, Pod: r.Name, PodUID: r.UID, Workload: r.Workload, Node: r.Node,
		Spec: size(r.Spec, r.SpecType), Charge: r.Charge, Tags: r.Tags,
		Start: r.Start, BootID: r.BootID, StartBoot: r.StartBoot,
	}
	var all []Usage
	for i, s := range r.Resizes {
		at := r.Start.Add(s.At - r.StartBoot)
		u.End = at
		all = append(all, u)
		u.Stretch, u.Spec, u.Start, u.StartBoot, u.End = i+1, size(s.Spec, s.SpecType), at, s.At, time.Time{}
	}
	u.End, u.Estimated = r.End(), life.Estimated
	if u.End.IsZero() && life.Seen > u.StartBoot {
		u.Seen = r.Start.Add(life.Seen - r.StartBoot)
	}
	return append(all, u)
}

// size is what a spec says, or the zero Size.
func size(text, kind string) podsize.Size {
	s, err := podsize.ParseSize(text, kind)
	if err != nil {
		return podsize.Size{}
	}
	return s
}
