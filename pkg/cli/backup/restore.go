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

// maxManifest bounds what a foreign file can make us read.
const maxManifest = 1 << 20

// Target is where to restore to. The caller holds the lock of its data folder.
type Target struct {
	Data       datadir.Dir
	ConfigFile string
	Version    string
	Force      bool // sets a cluster that is there aside
	Now        func() time.Time
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
	if r.Manifest, err = unpack(file, stage, to.Version); err != nil {
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

// configure writes the archive's settings where this host has none. Where it has others, they go beside them: this
// host may well have another address.
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
		if have, err := os.ReadFile(place); err == nil {
			if bytes.Equal(have, data) {
				return nil
			}
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
func unpack(file, dir, ours string) (m Manifest, err error) {
	f, err := os.Open(file)
	if err != nil {
		return m, &hint.Error{Op: "read backup", On: file, Err: err, Do: "name a file that `nodeless backup` wrote"}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewReader(f)
	if err != nil {
		return m, corrupt(file, err)
	}
	defer z.Close()
	r := tar.NewReader(z)
	if m, err = readManifest(r); err != nil {
		return m, corrupt(file, err)
	}
	if err := acceptVersion(m, ours); err != nil {
		return m, &hint.Error{Op: "restore", On: file, Err: err, Do: "install nodeless " + m.Version + " or a later one on this host first"}
	}
	missing := make(map[string]Member, len(m.Members))
	for _, member := range m.Members {
		missing[member.Name] = member
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
		if err := unpackMember(r, member, dir); err != nil {
			return m, corrupt(file, err)
		}
	}
	if len(missing) > 0 {
		return m, corrupt(file, fmt.Errorf("it lacks %s", strings.Join(sortedKeys(missing), ", ")))
	}
	return m, nil
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
	n, err := io.Copy(io.MultiWriter(f, sum), r)
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
