package meter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

const (
	// interval is the pause between two looks at the folder.
	interval = time.Second
	// patience is how long a nodeless-vmm that runs may take to write that its QEMU has ended. One that has ended itself
	// writes no more.
	patience = time.Minute
	// noting is the pause between two notes in the ledger of what runs: what is billed of a host that nobody hears of is short by so much.
	noting = time.Minute
	// nag is the pause after which a fault that stays is logged again.
	nag = time.Minute
)

// Config is what the Collector needs to know.
type Config struct {
	Dir      sandboxrecord.Dir
	Clock    Clock
	Proc     fs.FS         // /proc when nil
	Interval time.Duration // a second when zero
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("meter: no folder of sandbox records"))
	}
	if c.Clock == nil {
		errs = append(errs, errors.New("meter: no clock"))
	}
	if c.Interval < 0 {
		errs = append(errs, fmt.Errorf("meter: an interval of %v", c.Interval))
	}
	return errors.Join(errs...)
}

// ledger is what the Collector writes to: a Ledger.
type ledger interface {
	Put(ctx context.Context, lives ...Life) ([]*Conflict, error)
	Running(ctx context.Context) ([]Life, error)
	Saw(ctx context.Context, seen map[string]time.Duration) error
}

// folder is where the Collector's records come from: a sandboxrecord.Dir.
type folder interface {
	Make() error
	ReadAll() (sandboxrecord.Contents, error)
	Read(sandbox string) (sandboxrecord.Record, error)
	LastHeartbeat(sandbox string) (time.Duration, error)
	Remove(sandbox string) error
	SetAside(sandbox string) (string, error)
	RemoveUnfinished(now time.Time) error
}

// Collector is the component that fills the ledger. There is one for a folder.
type Collector struct {
	cfg    Config
	log    *slog.Logger
	ledger ledger
	folder folder
	ready  chan struct{} // closed when the folder has been taken in once
	ends   *ends         // nil where /proc is not this host's

	// What follows is Run's alone, and can be lost at any time.
	running map[string]sandboxrecord.Record // what the ledger has as running; nil until it was asked
	seen    map[string]time.Duration        // when each was last seen to run, since the boot
	noted   time.Duration                   // when the ledger was last told of what was seen, since the boot
	gone    map[string]time.Duration        // when each was first missed
	done    map[string]bool                 // those whose end the ledger has and whose records are still to go
	lost    map[string]bool                 // running ones whose records are gone, which has been logged
	fault   string                          // the last one logged
	nagged  time.Duration                   // and when, since the boot
}

var (
	_ run.Component = (*Collector)(nil)
	_ run.Readier   = (*Collector)(nil)
	_ ledger        = (*Ledger)(nil)
	_ folder        = sandboxrecord.Dir("")
)

// NewCollector gives a component that has not touched anything yet. The ledger stays open when it ends.
func NewCollector(cfg Config, ledger *Ledger, log *slog.Logger) *Collector {
	var watching *ends
	if cfg.Proc == nil {
		cfg.Proc = os.DirFS("/proc")
		watching = newEnds(cfg.Clock)
	}
	if cfg.Interval == 0 {
		cfg.Interval = interval
	}
	return &Collector{
		ends: watching, cfg: cfg, log: log, ledger: ledger, folder: cfg.Dir, ready: make(chan struct{}),
		seen: map[string]time.Duration{}, gone: map[string]time.Duration{}, done: map[string]bool{}, lost: map[string]bool{},
	}
}

// Name is "meter".
func (c *Collector) Name() string { return "meter" }

// Ready waits until all that was recorded before the start is in the ledger.
func (c *Collector) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run takes records in until ctx ends. What stands in the way, such as a full disk, is logged and tried again: the records
// stay until it works.
func (c *Collector) Run(ctx context.Context) error {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	if err := c.folder.RemoveUnfinished(c.cfg.Clock().Wall); err != nil {
		c.log.Warn("files of killed processes are left", "error", err)
	}
	var ended chan struct{}
	if c.ends != nil {
		defer c.ends.close()
		ended = c.ends.told
	}
	ticker := time.NewTicker(c.cfg.Interval)
	defer ticker.Stop()
	settled := false
	for {
		err := c.scan(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.complain(err)
		if err == nil && !settled {
			close(c.ready)
			settled = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-ended: // at once: what was seen and is not in the ledger would be lost with this process
		}
	}
}

// complain logs a fault when it is new, and now and then while it stays.
func (c *Collector) complain(err error) {
	if err == nil {
		if c.fault != "" {
			c.log.Info("lives of microVMs are recorded again")
		}
		c.fault = ""
		return
	}
	now := c.cfg.Clock().Boot
	if text := err.Error(); text != c.fault || now-c.nagged >= nag {
		c.fault, c.nagged = text, now
		c.log.Error("lives of microVMs wait to be recorded; none is lost while their folder stays, see that the disk has room and is writable",
			"folder", string(c.cfg.Dir), "error", err)
	}
}

// scan takes in what the folder has. A record goes only after what it says is in the ledger, for good; whatever ends this in
// between, the next scan finds the record again and the ledger takes nothing twice.
func (c *Collector) scan(ctx context.Context) error {
	now := c.cfg.Clock() // before the look at any process: one that runs then ran now
	if err := c.begin(ctx); err != nil {
		return err
	}
	found, err := c.folder.ReadAll()
	if errors.Is(err, fs.ErrNotExist) {
		err = c.folder.Make()
	}
	errs := []error{err}
	for _, corrupt := range found.Corrupt {
		errs = append(errs, c.setAside(corrupt.Sandbox(), corrupt, "a record of a microVM's life cannot be read: if it ran, its time is missing "+
			"from the ledger; look into the file and its .beat, and delete both when done"))
	}
	due, err := c.due(found.Records, now)
	errs = append(errs, err)
	if len(due) > 0 {
		conflicts, err := c.ledger.Put(ctx, due...)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, c.settle(due, conflicts))
	}
	errs = append(errs, c.note(ctx, now), c.tidy())
	for _, id := range found.Strays {
		if _, runs := c.running[id]; !runs {
			errs = append(errs, c.folder.Remove(id))
		}
	}
	return errors.Join(errs...)
}

// begin asks the ledger once what ran when the last Collector ended.
func (c *Collector) begin(ctx context.Context) error {
	if c.running != nil {
		return nil
	}
	known, err := c.ledger.Running(ctx)
	if err != nil {
		return err
	}
	c.running = map[string]sandboxrecord.Record{}
	for _, life := range known {
		c.running[life.Sandbox] = life.Record
		c.seen[life.Sandbox] = max(c.seen[life.Sandbox], life.Seen)
	}
	return nil
}

// note tells the ledger now and then what was seen to run.
func (c *Collector) note(ctx context.Context, now Instant) error {
	if c.noted == 0 {
		c.noted = now.Boot // the first scan has nothing to tell that the records do not
	}
	if now.Boot-c.noted < noting || len(c.seen) == 0 {
		return nil
	}
	if err := c.ledger.Saw(ctx, c.seen); err != nil {
		return err
	}
	c.noted = now.Boot
	return nil
}

// due lists the lives of which the ledger lacks something.
func (c *Collector) due(records []sandboxrecord.Record, now Instant) ([]Life, error) {
	var due []Life
	var errs []error
	add := func(r sandboxrecord.Record) {
		life, err := c.judge(r, now)
		if err != nil {
			errs = append(errs, err)
			return
		}
		if have, known := c.running[r.Sandbox]; !known || life.EndBoot != 0 || len(life.Resizes) > len(have.Resizes) {
			due = append(due, life)
		}
	}
	listed := map[string]bool{}
	for _, r := range records {
		listed[r.Sandbox] = true
		delete(c.lost, r.Sandbox)
		if !c.done[r.Sandbox] {
			add(r)
		}
	}
	for id, r := range c.running {
		if listed[id] {
			continue
		}
		if !c.lost[id] {
			c.lost[id] = true
			c.log.Warn("record of a running microVM is gone; its nodeless-vmm writes it again at the end", "sandbox", id, "folder", string(c.cfg.Dir))
		}
		add(r)
	}
	return due, errors.Join(errs...)
}

// judge decides whether a life has ended, and when. Only when nobody is left to write the end is it estimated.
func (c *Collector) judge(r sandboxrecord.Record, now Instant) (Life, error) {
	if r.EndBoot != 0 {
		return Life{Record: r}, nil
	}
	if r.BootID == now.BootID {
		runs, err := c.mayRun(r, now)
		if runs || err != nil {
			return Life{Record: r}, err
		}
	}
	// What was read before may be older than the last thing that the nodeless-vmm did.
	last, err := c.folder.Read(r.Sandbox)
	var corrupt *sandboxrecord.Corrupt
	switch {
	case err == nil:
		r = last
	case !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &corrupt):
		return Life{}, err
	}
	if r.EndBoot != 0 {
		return Life{Record: r}, nil
	}
	if c.ends != nil {
		if at, seen := c.ends.of(r.Sandbox); seen && at >= r.StartBoot {
			r.EndBoot = at
			return Life{Record: r}, nil
		}
	}
	r.EndBoot, err = c.lastSign(r, now)
	return Life{Record: r, Estimated: true}, err
}

// mayRun tells whether a sandbox of this boot runs, or has a nodeless-vmm that can be trusted to write its end, or a watch to see it.
func (c *Collector) mayRun(r sandboxrecord.Record, now Instant) (bool, error) {
	runs, err := r.QEMU.Alive(c.cfg.Proc)
	if err != nil {
		return false, err
	}
	if runs {
		c.seen[r.Sandbox] = now.Boot
		delete(c.gone, r.Sandbox)
		return true, c.watch(r)
	}
	since, known := c.gone[r.Sandbox]
	if !known {
		since = now.Boot
		c.gone[r.Sandbox] = since
	}
	watched, err := r.VMM.Alive(c.cfg.Proc)
	watched = watched || c.ends != nil && c.ends.awaits(r.Sandbox) // /proc has it a moment before a pidfd
	return watched && now.Boot-since < patience, err
}

// watch has the end of a sandbox's QEMU seen when it comes. One that has just gone is no error.
func (c *Collector) watch(r sandboxrecord.Record) error {
	if c.ends == nil {
		return nil
	}
	err := c.ends.watch(r.Sandbox, r.QEMU.PID, func() (bool, error) { return r.QEMU.Alive(c.cfg.Proc) })
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// lastSign is the last moment at which a sandbox is known to have run: never later than its end.
func (c *Collector) lastSign(r sandboxrecord.Record, now Instant) (time.Duration, error) {
	last := max(r.StartBoot, c.seen[r.Sandbox])
	if n := len(r.Resizes); n > 0 {
		last = max(last, r.Resizes[n-1].At)
	}
	heartbeat, err := c.folder.LastHeartbeat(r.Sandbox)
	var corrupt *sandboxrecord.Corrupt
	switch {
	case errors.As(err, &corrupt):
		c.log.Error("last sign of a microVM cannot be read; its time since it was last seen is not counted", "sandbox", r.Sandbox, "error", err)
	case err != nil:
		return 0, err
	}
	r.EndBoot = max(last, heartbeat)
	read := c.cfg.Clock()                                                       // now is of before the scan: what was written since is no lie
	if r.BootID == now.BootID && heartbeat > read.Boot || r.Validate() != nil { // no nodeless-vmm wrote that
		c.log.Error("last sign of a microVM is of the future; its time since it was last seen is not counted", "sandbox", r.Sandbox, "beat", heartbeat)
		return last, nil
	}
	return r.EndBoot, nil
}

// settle follows what is in the ledger now, and sets aside what contradicts it.
func (c *Collector) settle(lives []Life, conflicts []*Conflict) error {
	against := map[string]*Conflict{}
	for _, conflict := range conflicts {
		against[conflict.Sandbox] = conflict
	}
	var errs []error
	for _, life := range lives {
		id := life.Sandbox
		if conflict := against[id]; conflict != nil {
			errs = append(errs, c.setAside(id, conflict, "a record contradicts the ledger, which stays as it is; compare the two, and delete the file when done"))
			continue
		}
		c.tell(life)
		if life.EndBoot == 0 {
			c.running[id] = life.Record
			continue
		}
		c.done[id] = true
		if c.ends != nil {
			c.ends.forget(id)
		}
		delete(c.running, id)
		delete(c.seen, id)
		delete(c.gone, id)
		delete(c.lost, id)
	}
	return errors.Join(errs...)
}

// tidy removes the records of which the ledger has all.
func (c *Collector) tidy() error {
	var errs []error
	for id := range c.done {
		if err := c.folder.Remove(id); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(c.done, id)
	}
	return errors.Join(errs...)
}

// tell logs what an operator should know of a life that is in the ledger now.
func (c *Collector) tell(life Life) {
	_, known := c.running[life.Sandbox]
	if !known && size(life.Spec, life.SpecType) == (Usage{}.Spec) {
		c.log.Warn("microVM has no spec, its time is recorded and cannot be priced", "sandbox", life.Sandbox, "namespace", life.Namespace, "pod", life.Name,
			"spec", life.Spec, "type", life.SpecType)
	}
	if life.Estimated {
		c.log.Warn("nobody saw a microVM end, its time is recorded up to when it was last seen", "sandbox", life.Sandbox, "namespace", life.Namespace,
			"pod", life.Name, "ran", life.EndBoot-life.StartBoot)
	}
}

// setAside moves a record out of the way and says why. One that has gone meanwhile is no matter.
func (c *Collector) setAside(sandbox string, why error, message string) error {
	to, err := c.folder.SetAside(sandbox)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Join(why, err)
	}
	c.log.Error(message, "file", to, "error", why)
	return nil
}
