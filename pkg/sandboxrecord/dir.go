package sandboxrecord

import (
	"encoding/json"
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

// Names of files are a sandbox's id and one of these.
const (
	recordSuffix    = ".json"
	heartbeatSuffix = ".beat"
	badSuffix       = ".bad"
	tempMark        = recordSuffix + ".tmp-" // in the names of files that are being written
)

const (
	longestFile     = 1 << 20
	heartbeatDigits = 19
	// staleTemp is the age at which a file that is being written has surely been given up.
	staleTemp = time.Hour
)

// Dir is the folder of a host's records.
type Dir string

// Corrupt is the error of a file that is no record. It names the file.
type Corrupt struct {
	Path string
	Err  error
}

func (c *Corrupt) Error() string { return fmt.Sprintf("read record %s: %v", c.Path, c.Err) }

// Unwrap gives the cause.
func (c *Corrupt) Unwrap() error { return c.Err }

func (d Dir) file(sandbox, suffix string) string { return filepath.Join(string(d), sandbox+suffix) }

// Make makes the folder, closed to other users.
func (d Dir) Make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make folder of sandbox records: %w", err)
	}
	return nil
}

// Write puts a record in the place of the sandbox's last one. When it returns nil the record survives a power cut.
func (d Dir) Write(r Record) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("write record of sandbox %s: %w", r.Sandbox, err)
	}
	raw, err := json.Marshal(r)
	if err == nil && len(raw) > longestFile {
		err = fmt.Errorf("%d bytes, more than %d", len(raw), longestFile)
	}
	if err != nil {
		return fmt.Errorf("write record of sandbox %s: %w", r.Sandbox, err)
	}
	if err := d.Make(); err != nil {
		return err
	}
	return atomicfile.Write(d.file(r.Sandbox, recordSuffix), raw, 0o600)
}

// Read gives the record of a sandbox. The error is fs.ErrNotExist without one, and *Corrupt when the file is no record.
func (d Dir) Read(sandbox string) (Record, error) {
	path := d.file(sandbox, recordSuffix)
	if !validID(sandbox) {
		return Record{}, &Corrupt{path, errors.New("its name is not that of a sandbox")}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > longestFile {
		return Record{}, &Corrupt{path, fmt.Errorf("%s, %d bytes: want a file of at most %d bytes", info.Mode(), info.Size(), longestFile)}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	r, err := parse(raw)
	if err == nil && r.Sandbox != sandbox {
		err = fmt.Errorf("it is of sandbox %q", r.Sandbox)
	}
	if err != nil {
		return Record{}, &Corrupt{path, err}
	}
	return r, nil
}

func parse(raw []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, err
	}
	return r, r.Validate()
}

// Contents is what is in the folder.
type Contents struct {
	Records []Record   // sorted by sandbox
	Corrupt []*Corrupt // files that are no records
	Strays  []string   // sandboxes of which there is a heartbeat alone
}

// ReadAll reads the whole folder. The error, fs.ErrNotExist without a folder, may be of some files alone: the others are
// in Contents then.
func (d Dir) ReadAll() (Contents, error) {
	entries, err := os.ReadDir(string(d)) // sorted
	if err != nil {
		return Contents{}, fmt.Errorf("read folder of sandbox records: %w", err)
	}
	var c Contents
	var errs []error
	for _, e := range entries {
		id, isRecord := strings.CutSuffix(e.Name(), recordSuffix)
		if !isRecord {
			continue
		}
		r, err := d.Read(id)
		var corrupt *Corrupt
		switch {
		case err == nil:
			c.Records = append(c.Records, r)
		case errors.As(err, &corrupt):
			c.Corrupt = append(c.Corrupt, corrupt)
		case !errors.Is(err, fs.ErrNotExist): // removed just now
			errs = append(errs, err)
		}
	}
	for _, e := range entries {
		if id, isBeat := strings.CutSuffix(e.Name(), heartbeatSuffix); isBeat && validID(id) && d.stray(id) {
			c.Strays = append(c.Strays, id)
		}
	}
	return c, errors.Join(errs...)
}

// stray tells whether a heartbeat's record is gone. A record is written before its first heartbeat, so that one which the folder's
// list lacks is found here. The heartbeat of a record that was set aside is kept for whoever looks into it.
func (d Dir) stray(sandbox string) bool {
	for _, suffix := range []string{recordSuffix, recordSuffix + badSuffix} {
		if _, err := os.Lstat(d.file(sandbox, suffix)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// Remove deletes a sandbox's record and heartbeat. What is not there counts as removed.
func (d Dir) Remove(sandbox string) error {
	for _, suffix := range []string{heartbeatSuffix, recordSuffix} {
		if err := os.Remove(d.file(sandbox, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove record of sandbox %s: %w", sandbox, err)
		}
	}
	return nil
}

// SetAside renames a sandbox's record, so that it is read no more, and gives its new path. What was set aside before stays.
func (d Dir) SetAside(sandbox string) (string, error) {
	from := d.file(sandbox, recordSuffix)
	to := from + badSuffix
	for i := 1; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = from + badSuffix + "." + strconv.Itoa(i)
	}
	if err := os.Rename(from, to); err != nil {
		return "", fmt.Errorf("set record aside: %w", err)
	}
	return to, nil
}

// Sandbox is the name of the sandbox whose record a path is, or should be.
func (c *Corrupt) Sandbox() string { return strings.TrimSuffix(filepath.Base(c.Path), recordSuffix) }

// Heartbeat notes that QEMU ran at a moment after the boot. It takes no room that it did not have before and waits for no disk:
// what a power cut leaves of it may be half a minute old.
func (d Dir) Heartbeat(sandbox string, boot time.Duration) (err error) {
	f, err := os.OpenFile(d.file(sandbox, heartbeatSuffix), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write heartbeat: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := fmt.Fprintf(f, "%0*d\n", heartbeatDigits, int64(boot)); err != nil {
		return fmt.Errorf("write heartbeat: %w", err)
	}
	return nil
}

// LastHeartbeat is the last moment of which a sandbox's Heartbeat was told, 0 when there was none. The error is *Corrupt when the file
// says nothing.
func (d Dir) LastHeartbeat(sandbox string) (time.Duration, error) {
	path := d.file(sandbox, heartbeatSuffix)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read heartbeat: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != heartbeatDigits+1 {
		return 0, &Corrupt{path, fmt.Errorf("%s, %d bytes: want a file of %d bytes", info.Mode(), info.Size(), heartbeatDigits+1)}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read heartbeat: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(raw), "\n"), 10, 63)
	if err != nil {
		return 0, &Corrupt{path, err}
	}
	return time.Duration(n), nil
}

// RemoveUnfinished deletes what a nodeless-vmm that was killed as it wrote has left. now is by the wall clock, as the files' ages are.
func (d Dir) RemoveUnfinished(now time.Time) error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove unfinished sandbox records: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		info, err := e.Info()
		return !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), tempMark) || err != nil || now.Sub(info.ModTime()) < staleTemp
	})
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(string(d), e.Name())))
	}
	return errors.Join(errs...)
}
