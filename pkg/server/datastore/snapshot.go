package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

const (
	// DefaultSnapshotInterval is the time between two snapshots.
	DefaultSnapshotInterval = time.Hour
	// keepSnapshots is how many stay. Each was verified before it got its name, so the newest good one is among them.
	keepSnapshots = 24
	// firstSnapshot is when a server takes its first one: a fresh cluster shall not go unprotected for an hour.
	firstSnapshot = 15 * time.Second

	snapshotTime = "20060102T150405Z"
	unfinished   = ".tmp-"
)

// snapshot is a copy of the database that was good when it was made. Its file's name says all that is known of it:
// state-TIME-rREVISION-CHECKSUM.db.
type snapshot struct {
	File     string
	Taken    time.Time
	Revision int64
	sum      string // begins its SHA-256
}

func (c Config) snapshotDir() string { return filepath.Join(filepath.Dir(c.File), "snapshots") }

func (s snapshot) name() string {
	return fmt.Sprintf("state-%s-r%d-%s.db", s.Taken.UTC().Format(snapshotTime), s.Revision, s.sum)
}

// parseSnapshot reads a file's name.
func parseSnapshot(path string) (snapshot, bool) {
	part := strings.Split(strings.TrimSuffix(filepath.Base(path), ".db"), "-")
	if len(part) != 4 || part[0] != "state" || !strings.HasPrefix(part[2], "r") {
		return snapshot{}, false
	}
	taken, err := time.Parse(snapshotTime, part[1])
	rev, revErr := strconv.ParseInt(part[2][1:], 10, 64)
	return snapshot{File: path, Taken: taken, Revision: rev, sum: part[3]}, err == nil && revErr == nil
}

// snapshots lists what there is, the newest first. Revisions tell the order, for clocks may be set back.
func (c Config) snapshots() ([]snapshot, error) {
	entries, err := os.ReadDir(c.snapshotDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var found []snapshot
	for _, e := range entries {
		if s, ok := parseSnapshot(filepath.Join(c.snapshotDir(), e.Name())); ok {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b snapshot) int {
		if a.Revision != b.Revision {
			return int(max(-1, min(1, b.Revision-a.Revision)))
		}
		return b.Taken.Compare(a.Taken)
	})
	return found, nil
}

// takeSnapshots takes one soon and then one each interval until ctx ends. A failure is told and tried again.
func (d *Datastore) takeSnapshots(ctx context.Context) {
	if d.cfg.SnapshotInterval < 0 {
		return
	}
	timer := time.NewTimer(min(firstSnapshot, d.cfg.SnapshotInterval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		switch s, err := takeSnapshot(ctx, d.cfg, time.Now); {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.Error("database snapshot not taken", "error", err, "retry", d.cfg.SnapshotInterval,
				"do", "make room on the file system of "+d.cfg.snapshotDir())
		case s.File != "":
			d.log.Info("database snapshot taken", "file", s.File, "revision", s.Revision, "took", time.Since(began).Round(time.Millisecond))
		}
		timer.Reset(d.cfg.SnapshotInterval)
	}
}

// takeSnapshot copies the database, verifies the copy, names it, and removes those that are too many. It gives a
// snapshot without a file when nothing has changed since the last one.
func takeSnapshot(ctx context.Context, cfg Config, now func() time.Time) (_ snapshot, err error) {
	if err := os.MkdirAll(cfg.snapshotDir(), 0o700); err != nil {
		return snapshot{}, fmt.Errorf("take snapshot: %w", err)
	}
	if err := cfg.clearUnfinished(); err != nil {
		return snapshot{}, err
	}
	have, err := cfg.snapshots()
	if err != nil {
		return snapshot{}, err
	}
	rev, err := Revision(ctx, cfg.File)
	if err != nil {
		return snapshot{}, err
	}
	if len(have) > 0 && have[0].Revision == rev {
		return snapshot{}, nil
	}
	s := snapshot{Taken: now()}
	temp := filepath.Join(cfg.snapshotDir(), fmt.Sprintf("%s%d", unfinished, os.Getpid()))
	if s.Revision, err = Copy(ctx, cfg.File, temp); err != nil {
		return snapshot{}, fmt.Errorf("take snapshot: %w", err)
	}
	sum, err := digestOf(temp)
	if err != nil {
		return snapshot{}, errors.Join(fmt.Errorf("take snapshot: %w", err), os.Remove(temp))
	}
	s.sum = sum.SHA256[:16]
	s.File = filepath.Join(cfg.snapshotDir(), s.name())
	if err := os.Rename(temp, s.File); err != nil {
		return snapshot{}, errors.Join(fmt.Errorf("take snapshot: %w", err), os.Remove(temp))
	}
	if err := atomicfile.SyncDir(cfg.snapshotDir()); err != nil {
		return snapshot{}, err
	}
	return s, prune(append([]snapshot{s}, have...))
}

// prune removes all but the newest.
func prune(newestFirst []snapshot) error {
	var errs []error
	for _, s := range newestFirst[min(keepSnapshots, len(newestFirst)):] {
		errs = append(errs, os.Remove(s.File))
	}
	return errors.Join(errs...)
}

// clearUnfinished removes what a process left that died while it copied.
func (c Config) clearUnfinished() error {
	left, err := filepath.Glob(filepath.Join(c.snapshotDir(), unfinished+"*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// check proves that the snapshot is still what was verified when it was taken.
func (s snapshot) check() error {
	sum, err := digestOf(s.File)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(sum.SHA256, s.sum) {
		return fmt.Errorf("%w: its checksum is not that of its name", ErrDamaged)
	}
	return nil
}
