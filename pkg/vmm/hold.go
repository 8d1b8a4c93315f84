package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

const (
	// lookInterval is how often a Pod's disk is looked at, closeInterval how often where less than twice the reserve is free.
	lookInterval  = time.Second
	closeInterval = 100 * time.Millisecond
	// trickle is what a Pod may add to a disk with too little room, in bytes a second: the little that every system writes. Where
	// half of the reserve is gone as well it may add nothing.
	trickle = 1 << 20
	// heldWrites is the pace of a held Pod's writable disk in bytes a second, the least that QEMU knows: the first write of all waits for
	// hours. Reads go on, and so do the guest and its agent: a guest that stood still would be ended by Kata after half a minute.
	heldWrites = 1
)

// Held is what contract.HeldFile says.
type Held struct {
	sandboxrecord.Pod
	contract.Hold
}

// ReadHeld reads the contract.HeldFile in a microVM's folder.
func ReadHeld(dir string) (h Held, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, contract.HeldFile))
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, fmt.Errorf("parse %s: %w", filepath.Join(dir, contract.HeldFile), err)
	}
	return h, nil
}

// room is what a file system has, in bytes.
type room struct{ total, free int64 }

// roomIn measures the file system of a path.
func roomIn(path string) (room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return room{}, fmt.Errorf("measure file system of %s: %w", path, err)
	}
	return room{total: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize}, nil
}

// reserve is how much of a file system has to stay free.
func (d Disk) reserve(r room) int64 { return r.total / 100 * int64(d.ReservePercent) }

// refuses tells that there is no room for the disk of one more Pod.
func (d Disk) refuses(r room) error {
	if reserve := d.reserve(r); r.free < reserve/2 {
		return fmt.Errorf("make a disk for the Pod: the host's disk has %d MiB left, and %d MiB are the host's own", r.free/mib, reserve/mib)
	}
	return nil
}

// tooFull tells that a Pod which has written so much in a time has to wait: there is less room than there has to be, and the Pod takes it.
func (d Disk) tooFull(r room, written int64, in time.Duration) bool {
	switch reserve := d.reserve(r); {
	case r.free >= reserve || written <= 0:
		return false
	case r.free < reserve/2:
		return true
	}
	return float64(written) > trickle*in.Seconds()
}

// goesOn tells that there is room again for one who was held, and a little more, or the next moment would hold it again.
func (d Disk) goesOn(r room) bool { return r.free >= d.reserve(r)+r.total/100 }

// pause is the time until the next look.
func (d Disk) pause(r room, held bool) time.Duration {
	if held || r.free < 2*d.reserve(r) {
		return closeInterval
	}
	return lookInterval
}

// keeper holds a guest that fills the file system of the writable disks: its writes wait until there is room again. It is told apart from
// its neighbours, which go on, by what it adds to its own disk and to its volumes.
type keeper struct {
	v       *vm
	dir     string // of its API socket
	bounds  Disk
	scratch *scratchDisk // set by create, read after it
	shared  sharer
	volumes volumePace
	full    atomic.Bool // QEMU has stopped the guest for want of room
	runs    sync.WaitGroup

	held  Held
	usage int64 // of the writable disk and what is shared, when last looked
	wrote int64 // to what is shared, of that
	last  time.Time
	below bool // the reserve, when last looked: then volumes count
}

// keepRoom looks until QEMU has ended.
func (k *keeper) keepRoom() {
	pause := lookInterval
	for {
		timer := time.NewTimer(pause)
		select {
		case <-k.v.ended:
			timer.Stop()
			k.volumes.release()
			k.shared.release()
			return
		case <-timer.C:
		}
		pause = lookInterval
		r, err := roomIn(k.scratch.path)
		if err != nil {
			k.v.log.Warn("it is not known how full the disk is", "err", err)
		} else {
			k.look(r, time.Now())
			pause = k.bounds.pause(r, k.held.Held)
		}
		if k.v.spec.Share != nil { // fixed by now
			pause = min(pause, k.volumes.look(time.Now(), len(k.shared.stopped) > 0))
		}
	}
}

// look decides by what has happened since the last look.
func (k *keeper) look(r room, now time.Time) {
	below := r.free < k.bounds.reserve(r)
	usage, first, shared := k.scratch.allocated(), k.last.IsZero() || below != k.below, int64(0)
	if below {
		var comparable bool
		shared, comparable = k.shared.written(now)
		usage, first = usage+shared, first || !comparable
	}
	wrote := !first && k.bounds.tooFull(r, shared-k.wrote, now.Sub(k.last))
	k.wrote = shared
	written, took := usage-k.usage, now.Sub(k.last)
	k.usage, k.last, k.below = usage, now, below
	stopped := k.full.Swap(false)
	switch {
	case !k.held.Held && (stopped || !first && k.bounds.tooFull(r, written, took)):
		k.hold(r, wrote)
	case k.held.Held && !stopped && k.bounds.goesOn(r):
		k.letGo(r)
	case k.held.Held && wrote: // it has found another way
		k.shared.stop(wrote)
	}
	if stopped { // the write that failed is tried again, and stops the guest again if there is still no room
		k.command("cont", map[string]any{})
	}
}

// hold lets the guest's writes wait, those to single files of the host if it writes to them.
func (k *keeper) hold(r room, wrote bool) {
	k.volumes.release() // who holds is the one who lets go
	k.shared.stop(wrote)
	if !k.command("block_set_io_throttle", writePace(heldWrites)) {
		return // the next look tries again
	}
	k.v.log.Warn("the Pod fills the host's disk, its writes wait", "free", r.free, "reserve", k.bounds.reserve(r))
	k.held.Held, k.held.Times = true, k.held.Times+1
	k.note(r)
}

// letGo lets them through.
func (k *keeper) letGo(r room) {
	k.shared.release()
	if !k.command("block_set_io_throttle", writePace(0)) {
		return
	}
	k.v.log.Info("there is room on the host's disk again, the Pod's writes go on", "free", r.free)
	k.held.Held = false
	k.note(r)
}

// writePace are the arguments that set how much is written to the writable disk each second; 0 for no bound.
func writePace(bytes int64) map[string]any {
	return map[string]any{"id": scratchPath, "bps": 0, "bps_rd": 0, "bps_wr": bytes, "iops": 0, "iops_rd": 0, "iops_wr": 0}
}

// command tells QEMU, and whether it did.
func (k *keeper) command(name string, args map[string]any) bool {
	client, err := k.v.client()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), qmpTimeout)
		defer cancel()
		err = client.Execute(ctx, name, args, nil)
	}
	if err != nil {
		k.v.log.Error("a Pod that fills the host's disk cannot be held or let go", "command", name, "err", err)
	}
	return err == nil
}

// note tells what has become of the Pod, for pkg/worker/notice to say.
func (k *keeper) note(r room) {
	k.held.Pod = k.v.readPod()
	k.held.Free, k.held.Reserve = r.free, k.bounds.reserve(r)
	raw, err := json.Marshal(k.held)
	if err == nil && k.dir != "" {
		err = atomicfile.Write(filepath.Join(k.dir, contract.HeldFile), raw, 0o600)
	}
	if err != nil {
		k.v.log.Warn("nobody learns that the Pod is held or let go", "err", err)
	}
}

// forget removes what was noted. QEMU has ended.
func (k *keeper) forget() error {
	k.runs.Wait()
	if k.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(k.dir, contract.HeldFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note that the Pod was held: %w", err)
	}
	return nil
}

// outOfRoom notes QEMU's word that a write found no room and that the guest stands still.
func (k *keeper) outOfRoom(raw json.RawMessage) {
	var data struct {
		Action string `json:"action"`
	}
	if json.Unmarshal(raw, &data) == nil && data.Action == "stop" {
		k.full.Store(true)
	}
}
