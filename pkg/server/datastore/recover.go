package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

// Recovery tells that the database was damaged and what took its place.
type Recovery struct {
	Cause    error
	Snapshot string    // the file that the server went on with
	Taken    time.Time // when it was made: all changes since then are lost
	Revision int64     // the last one in it
	Last     int64     // the last one that the damaged file can still tell, 0 if it cannot
	Aside    string    // where the damaged file is now, empty if there was none
}

// String is the account for operators.
func (r *Recovery) String() string {
	lost := fmt.Sprintf("all changes after %s (revision %d) are lost", r.Taken.UTC().Format(time.RFC3339), r.Revision)
	if r.Last > r.Revision {
		lost = fmt.Sprintf("the %d changes after %s (revisions %d to %d) are lost", r.Last-r.Revision, r.Taken.UTC().Format(time.RFC3339), r.Revision+1, r.Last)
	}
	s := fmt.Sprintf("The cluster's database was damaged (%v). The server went on with the last good snapshot: %s.", r.Cause, lost)
	if r.Aside != "" {
		s += " The damaged file is kept as " + r.Aside + "."
	}
	return s
}

// admit makes sure that kine gets a sound database: it returns to a snapshot if the file is damaged, and begins a new
// history if the file is sound but may lack writes that clients have seen.
func (d *Datastore) admit(ctx context.Context) (verdict, error) {
	if err := d.closeToOthers(); err != nil {
		return verdict{}, err
	}
	report, err := scanWAL(d.cfg.walFile())
	if err != nil {
		return verdict{}, err
	}
	if report.severe() {
		d.keepLog()
	}
	found, err := d.cfg.examine(ctx, report)
	if err != nil || found.fresh {
		return found, err
	}
	if found.damage != nil {
		err = d.recover(ctx, found.damage)
	} else if found.doubt != "" {
		err = d.restartHistory(ctx, found, report)
	}
	if err != nil {
		return found, err
	}
	return found, d.markOpen()
}

// markOpen notes that from now on the digest of an orderly end does not count.
func (d *Datastore) markOpen() error {
	if err := d.cfg.writeMarker(marker{Boot: d.cfg.bootID()}); err != nil {
		return d.unwritable(err)
	}
	return nil
}

// wasteful tells whether more than a quarter of the file is free pages.
func (d *Datastore) wasteful(ctx context.Context) (yes bool, err error) {
	err = withDB(d.cfg.File, func(db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT freelist_count*4 > page_count FROM pragma_freelist_count(), pragma_page_count()").Scan(&yes)
	})
	if err != nil {
		return false, d.unusable(err)
	}
	return yes, nil
}

// keepLog copies a damaged log for whoever wants to look into it: SQLite is about to shorten it to what is sound.
func (d *Datastore) keepLog() {
	kept := d.cfg.File + ".damaged-" + time.Now().UTC().Format(snapshotTime) + ".log"
	if err := atomicfile.Copy(d.cfg.walFile(), kept, 0o600); err != nil {
		d.log.Warn("damaged write-ahead log not kept", "error", err)
		return
	}
	d.log.Warn("damaged write-ahead log kept", "file", kept)
}

// closeToOthers makes a missing file, for SQLite would make it readable.
func (d *Datastore) closeToOthers() error {
	f, err := os.OpenFile(d.cfg.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return d.unwritable(err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return fmt.Errorf("close database to other users: %w", err)
	}
	return nil
}

func (d *Datastore) unwritable(err error) error {
	return &hint.Error{Op: "open database", On: d.cfg.File, Err: err, Do: "run as root on a writable file system with free space, or choose another folder with --data-dir"}
}

func (d *Datastore) unusable(err error) error {
	dir := filepath.Dir(d.cfg.File)
	return &hint.Error{Op: "use database", On: d.cfg.File, Err: err,
		Do: "bring back a backup with `nodeless restore FILE`; to start an empty cluster instead, move the folder " + dir + " away"}
}

// verdict is what the examination at start found.
type verdict struct {
	fresh  bool   // there was never a database here
	damage error  // it cannot be used
	doubt  string // it can, but may lack the last writes: why
}

// examine looks at the database without changing what matters in it.
func (c Config) examine(ctx context.Context, log walReport) (v verdict, err error) {
	info, err := os.Stat(c.File)
	if err != nil {
		return v, fmt.Errorf("examine database: %w", err)
	}
	last, err := c.readMarker()
	if err != nil {
		return v, err
	}
	if info.Size() == 0 {
		have, err := c.snapshots()
		if v.fresh = last == nil && len(have) == 0; !v.fresh {
			v.damage = errors.New("the file is missing or empty")
		}
		return v, err
	}
	if proven, damage, err := c.compare(last); proven || damage != nil || err != nil {
		v.damage = damage
		return v, err
	}
	if err := verify(ctx, c.File, "integrity_check"); errors.Is(err, ErrDamaged) {
		v.damage = err
	} else if err != nil {
		return v, &hint.Error{Op: "check database", On: c.File, Err: err, Do: "make room on its file system if that is full, and start the server again"}
	}
	switch {
	case !log.whole():
		v.doubt = log.String()
	case last != nil && last.Closed == nil && last.Boot != c.bootID():
		v.doubt = "the host went down while the server ran, and the last moments may not have reached the disk"
	}
	return v, nil
}

// compare holds a database that was closed in order against what was noted of it then. The digest proves more than any
// check of SQLite's, which does not see a bit that changed inside a value. A file with another header is another
// database, put here by an operator: it is for SQLite to judge.
func (c Config) compare(last *marker) (proven bool, damage, err error) {
	if last == nil || last.Closed == nil {
		return false, nil, nil
	}
	if info, err := os.Stat(c.walFile()); err == nil && info.Size() > 0 {
		return false, nil, nil
	}
	now, err := digestOf(c.File)
	switch {
	case err != nil:
		return false, nil, fmt.Errorf("examine database: %w", err)
	case now == *last.Closed:
		return true, nil, nil
	case now.Header == last.Closed.Header:
		return false, errors.New("its content has changed since the server closed it"), nil
	}
	return false, nil, nil
}

// restartHistory keeps clients from taking new writes for the lost ones.
func (d *Datastore) restartHistory(ctx context.Context, found verdict, report walReport) error {
	rev, err := Rebase(ctx, d.cfg.File)
	if err != nil {
		return d.unusable(err)
	}
	level := d.log.Warn
	if report.severe() {
		level = d.log.Error
	}
	level("database may lack its last writes", "reason", found.doubt, "revision", rev,
		"do", "compare what was changed last with what you expect; clients are told to list everything again")
	return nil
}

// recover puts the last good snapshot in the place of a damaged database.
func (d *Datastore) recover(ctx context.Context, damage error) error {
	if !errors.Is(damage, ErrDamaged) {
		damage = fmt.Errorf("%w: %w", ErrDamaged, damage)
	}
	good, err := d.lastGood()
	if err != nil {
		return err
	}
	if good == nil {
		return d.unusable(fmt.Errorf("%w; there is no good snapshot of it in %s", damage, d.cfg.snapshotDir()))
	}
	r := &Recovery{Cause: damage, Snapshot: good.File, Taken: good.Taken, Revision: good.Revision}
	r.Last, _ = Revision(ctx, d.cfg.File) // a damaged file owes us nothing
	next := d.cfg.File + ".next"
	if err := atomicfile.Copy(good.File, next, 0o600); err != nil {
		return &hint.Error{Op: "return to snapshot", On: good.File, Err: err, Do: "make room on the file system of " + d.cfg.File}
	}
	rev, err := Rebase(ctx, next)
	if err != nil {
		return d.unusable(err)
	}
	if r.Aside, err = setAside(d.cfg.File, time.Now()); err != nil {
		return err
	}
	if err := os.Rename(next, d.cfg.File); err != nil {
		return fmt.Errorf("return to snapshot: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(d.cfg.File)); err != nil {
		return err
	}
	d.recovered.Store(r)
	d.log.Error("DATABASE DAMAGED: returned to the last good snapshot", "cause", damage,
		"snapshot", r.Snapshot, "age", time.Since(r.Taken).Round(time.Second), "revision", r.Revision, "last_known_revision", r.Last,
		"lost", r.String(), "damaged_file", r.Aside, "new_revision", rev, "do", "check the disk of this host and apply again what was changed since")
	return nil
}

// lastGood finds the newest snapshot that is still sound, nil if there is none.
func (d *Datastore) lastGood() (*snapshot, error) {
	all, err := d.cfg.snapshots()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		err := s.check()
		if err == nil {
			return &s, nil
		}
		d.log.Error("database snapshot is damaged too", "file", s.File, "error", err)
	}
	return nil, nil
}

// setAside renames a database and its log so that tools still find them together.
func setAside(file string, now time.Time) (string, error) {
	aside := file + ".damaged-" + now.UTC().Format(snapshotTime)
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(file+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("set damaged database aside: %w", err)
		}
	}
	return aside, nil
}

// close folds the write-ahead log into the file, so that a copy of the file alone is a whole backup, and marks it as closed in order. A
// file that is not sound, or has a log that somebody is reading, stays without the marker, and the next start checks the long way.
func (d *Datastore) close(ctx context.Context) error {
	var busy, inLog, folded int
	err := withDB(d.cfg.File, func(db *sql.DB) error {
		return db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &inLog, &folded)
	})
	if err == nil {
		err = verify(ctx, d.cfg.File, "quick_check")
	}
	if err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	if info, err := os.Stat(d.cfg.walFile()); err == nil && info.Size() > 0 {
		return nil
	}
	sum, err := digestOf(d.cfg.File)
	if err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	d.log.Debug("database closed", "file", d.cfg.File)
	return d.cfg.writeMarker(marker{Boot: d.cfg.bootID(), Closed: &sum})
}
