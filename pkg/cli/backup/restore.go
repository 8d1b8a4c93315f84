package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/server/datastore"
)

// Kinds of refusals.
var (
	ErrCorrupt = errors.New("the archive is damaged or not one of ours")
	ErrNewer   = errors.New("the archive is of a newer version")
	ErrInUse   = errors.New("there is a cluster in it already")
)

// Bounds of what a foreign file can make us read and write.
const (
	maxManifest = 1 << 20
	maxMembers  = 1000
	maxSmall    = 16 << 20 // of a certificate, a key or settings
	maxDatabase = 1 << 40
	maxWindow   = 64 << 20 // of memory for what zstd looks back on
)

// Target is where to restore to. The caller holds the lock of its data folder.
type Target struct {
	Data       datadir.Dir
	ConfigFile string
	Version    string
	Force      bool // sets a cluster that is there aside
	// Passphrase opens the archive. One that is not encrypted is read only where Unencrypted says so.
	Passphrase  string
	Unencrypted bool
	// WithConfig puts the archive's settings in place where this host has none. Otherwise they are written beside.
	WithConfig bool
	// Room tells how many bytes fit into a folder's file system; that of the host when nil.
	Room func(dir string) (int64, error)
	Now  func() time.Time
}

// Report tells what Restore did.
type Report struct {
	Manifest Manifest
	Revision int64    // at which the restored cluster goes on
	Aside    string   // where the cluster is that was there before
	Kept     []string // settings of the archive that were written beside other ones of this host
}

// Restore unpacks and checks the archive, and only then puts its content in place.
func Restore(ctx context.Context, to Target, file string) (r Report, err error) {
	server := filepath.Join(string(to.Data), "server")
	used, err := holdsFiles(server)
	if err != nil {
		return r, err
	}
	if used && !to.Force {
		return r, &hint.Error{Op: "restore to", On: string(to.Data), Err: ErrInUse, Do: "give --force to set it aside as " + server + ".replaced-<time>, or another folder with --data-dir"}
	}
	stage, err := os.MkdirTemp(string(to.Data), ".restore-")
	if err != nil {
		return r, &hint.Error{Op: "restore to", On: string(to.Data), Err: err, Do: "choose a writable folder with --data-dir"}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	if r.Manifest, err = to.unpack(file, stage); err != nil {
		return r, err
	}
	fresh := filepath.Join(stage, "data", "server")
	if r.Revision, err = datastore.Rebase(ctx, filepath.Join(fresh, "db", "state.db")); err != nil {
		return r, corrupt(file, err)
	}
	note := datadir.Restored{Node: r.Manifest.Node, Host: r.Manifest.Host, Created: r.Manifest.Created}
	if err := note.Write(filepath.Join(stage, "data")); err != nil {
		return r, err
	}
	if r.Aside, err = to.replace(server, fresh, used); err != nil {
		return r, err
	}
	r.Kept, err = to.configure(filepath.Join(stage, "config"))
	return r, err
}

// replace renames the new folder into the place of the old one, and back if that fails.
func (to Target) replace(server, fresh string, used bool) (aside string, err error) {
	if used {
		aside = server + ".replaced-" + to.Now().UTC().Format("20060102T150405Z")
		err = os.Rename(server, aside)
	} else {
		err = os.RemoveAll(server) // empty folders
	}
	if err != nil {
		return "", fmt.Errorf("set old cluster aside: %w", err)
	}
	if err := os.Rename(fresh, server); err != nil {
		err = fmt.Errorf("put restored cluster in place: %w", err)
		if used {
			err = errors.Join(err, os.Rename(aside, server))
		}
		return "", err
	}
	return aside, atomicfile.SyncDir(string(to.Data))
}

// configure writes the archive's settings where this host has none and the operator wants it. Otherwise they go beside, where nobody reads
// them: this host may well have another address, and they say what the server runs and trusts.
func (to Target) configure(from string) (kept []string, err error) {
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		place := to.ConfigFile + strings.TrimPrefix(path, filepath.Join(from, configName))
		have, err := os.ReadFile(place)
		if err == nil && bytes.Equal(have, data) {
			return nil
		}
		if err == nil || !to.WithConfig {
			place += ".from-backup"
			kept = append(kept, place)
		}
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			return err
		}
		return atomicfile.Write(place, data, 0o600)
	})
	if err != nil {
		return kept, fmt.Errorf("restore configuration: %w", err)
	}
	return kept, nil
}

// holdsFiles tells whether there is anything but folders below dir.
func holdsFiles(dir string) (found bool, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			found = true
			return fs.SkipAll
		}
		return err
	})
	return found, err
}

func corrupt(file string, err error) error {
	return &hint.Error{Op: "read backup", On: file, Err: fmt.Errorf("%w: %w", ErrCorrupt, err), Do: "use another backup; nothing on this host was changed"}
}

// unpack writes every member below dir and checks all of them against the manifest.
func (to Target) unpack(file, dir string) (m Manifest, err error) {
	f, err := os.Open(file)
	if err != nil {
		return m, &hint.Error{Op: "read backup", On: file, Err: err, Do: "name a file that `nodeless backup` wrote"}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	clear, err := to.unseal(f, file)
	if err != nil {
		return m, err
	}
	z, err := zstd.NewReader(clear, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return m, corrupt(file, err)
	}
	defer z.Close()
	r := tar.NewReader(z)
	if m, err = readManifest(r); err != nil {
		return m, corrupt(file, err)
	}
	if err := acceptVersion(m, to.Version); err != nil {
		return m, &hint.Error{Op: "restore", On: file, Err: err, Do: "install nodeless " + m.Version + " or a later one on this host first"}
	}
	missing, size, err := acceptMembers(m)
	if err != nil {
		return m, corrupt(file, err)
	}
	if err := to.fits(size, dir); err != nil {
		return m, err
	}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, corrupt(file, err)
		}
		member, ok := missing[h.Name]
		if !ok {
			return m, corrupt(file, fmt.Errorf("%q is not in its manifest", h.Name))
		}
		delete(missing, h.Name)
		if h.Typeflag != tar.TypeReg || h.Size != member.Size {
			return m, corrupt(file, fmt.Errorf("%s is not what its manifest says", h.Name))
		}
		if err := unpackMember(r, member, dir); err != nil {
			return m, corrupt(file, err)
		}
	}
	if len(missing) > 0 {
		return m, corrupt(file, fmt.Errorf("it lacks %s", strings.Join(sortedKeys(missing), ", ")))
	}
	// To the end of the file: only there it is known that nothing was cut off or put behind.
	for _, rest := range []io.Reader{z, clear} {
		if n, err := io.Copy(io.Discard, io.LimitReader(rest, maxManifest)); err != nil || n == maxManifest {
			return m, corrupt(file, errors.Join(err, errors.New("it does not end where it should")))
		}
	}
	return m, nil
}

// acceptMembers gives what the archive is to have, by name, and its size, unless that is more than an archive of ours has. Nothing has been
// written yet.
func acceptMembers(m Manifest) (all map[string]Member, total int64, err error) {
	if len(m.Members) > maxMembers {
		return nil, 0, fmt.Errorf("it has %d files, an archive of ours up to %d", len(m.Members), maxMembers)
	}
	all = make(map[string]Member, len(m.Members))
	for _, member := range m.Members {
		most := int64(maxSmall)
		if strings.HasSuffix(member.Name, ".db") {
			most = maxDatabase
		}
		if _, err := placeOf(member.Name); err != nil {
			return nil, 0, err
		}
		if _, twice := all[member.Name]; twice || member.Size < 0 || member.Size > most {
			return nil, 0, fmt.Errorf("%s has %d bytes, or is there twice", member.Name, member.Size)
		}
		all[member.Name] = member
		total += member.Size
	}
	return all, total, nil
}

// ErrNoRoom is an archive that the target has no room for.
var ErrNoRoom = errors.New("there is not enough room for what is in the archive")

// fits refuses before the disk is full.
func (to Target) fits(size int64, dir string) error {
	room := to.Room
	if room == nil {
		room = hostRoom
	}
	free, err := room(dir)
	if err != nil {
		return fmt.Errorf("see how much room %s has: %w", dir, err)
	}
	if size > free {
		return &hint.Error{Op: "restore to", On: string(to.Data), Err: fmt.Errorf("%w: %d MiB, and %d MiB are free", ErrNoRoom, size>>20, free>>20), Do: "make room, or choose a larger file system with --data-dir"}
	}
	return nil
}

func hostRoom(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

func readManifest(r *tar.Reader) (m Manifest, err error) {
	h, err := r.Next()
	if err != nil {
		return m, err
	}
	if h.Name != manifestName {
		return m, fmt.Errorf("it begins with %q", h.Name)
	}
	if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

func unpackMember(r io.Reader, m Member, dir string) (err error) {
	place, err := placeOf(m.Name)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, place)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, m.Size+1))
	if err != nil {
		return err
	}
	if n != m.Size || hex.EncodeToString(sum.Sum(nil)) != m.SHA256 {
		return fmt.Errorf("%s is not what its manifest says", m.Name)
	}
	return f.Sync()
}

// acceptVersion refuses what this program may not understand. Versions that cannot be compared, such as those of
// development builds, are judged by the format alone.
func acceptVersion(m Manifest, ours string) error {
	if m.Format > format {
		return fmt.Errorf("%w: format %d, this program reads up to %d", ErrNewer, m.Format, format)
	}
	theirs, err := version.ParseSemantic(m.Version)
	mine, ourErr := version.ParseSemantic(ours)
	if err != nil || ourErr != nil || !mine.LessThan(theirs) {
		return nil
	}
	return fmt.Errorf("%w: %s, this program is %s", ErrNewer, m.Version, ours)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
