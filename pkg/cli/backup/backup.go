// Package backup packs what a cluster cannot be made again from into one archive, and unpacks it on the same or another host: the
// database, the ledger and the bills, the certificate authorities, the key that encrypts Secrets, and the configuration. Everything else
// on a host (certificates, images, sandboxes) follows from these. pkg/cli calls it for `backup` and `restore`.
//
// An archive is a zstd-compressed tar. It is encrypted by age with a passphrase, unless the operator wants it otherwise. Its first
// member, manifest.json, names all others with their digests, so that nothing is put in place before everything is known to be whole.
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
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server/datastore"
	"github.com/nodeless/nodeless/pkg/sqlfile"
)

const (
	// format is the layout of archives that this program writes, and the newest that it reads.
	format       = 1
	manifestName = "manifest.json"
	configName   = "config.yaml"
	dataPrefix   = "data/" // what stands below the data folder
	configPrefix = "config/"
)

// Manifest tells what an archive is.
type Manifest struct {
	Format   int       `json:"format"`
	Version  string    `json:"version"` // of the program that wrote it
	Created  time.Time `json:"created"`
	Host     string    `json:"host"`
	Node     string    `json:"node"` // the name of the Node that the host was
	Revision int64     `json:"revision"`
	Members  []Member  `json:"members"`
}

// Member is one file of the archive.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Source is a cluster to back up.
type Source struct {
	Data       datadir.Dir
	ConfigFile string // and its drop-in folder
	Version    string
	Host, Node string
	Passphrase string // not encrypted when it is empty
	Running    bool   // a server works on it; otherwise the caller holds its lock
	Now        func() time.Time
}

// Create writes an archive to file, which must not exist yet.
func Create(ctx context.Context, src Source, file string) (m Manifest, err error) {
	if _, err := os.Lstat(file); err == nil {
		return m, &hint.Error{Op: "write backup", On: file, Err: fs.ErrExist, Do: "choose another name, or remove the old backup"}
	}
	if info, err := os.Stat(src.Data.DBFile()); err != nil || info.Size() == 0 {
		return m, &hint.Error{Op: "back up", On: string(src.Data), Err: errors.New("there is no cluster in it"), Do: "name the data folder of a server with --data-dir"}
	}
	temp, err := os.MkdirTemp(filepath.Dir(file), ".nodeless-backup-")
	if err != nil {
		return m, unwritable(file, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	db := filepath.Join(temp, "state.db")
	rev, err := copyDatabase(ctx, src, temp, db)
	if err != nil {
		return m, err
	}
	m = Manifest{Format: format, Version: src.Version, Created: src.Now().UTC(), Host: src.Host, Node: src.Node, Revision: rev}
	paths, err := src.files()
	if err != nil {
		return m, err
	}
	paths[dataPrefix+"server/db/state.db"] = db
	if err := copyAccounts(ctx, src, temp, paths); err != nil {
		return m, err
	}
	names := sortedKeys(paths)
	for _, name := range names {
		member, err := describe(name, paths[name])
		if err != nil {
			return m, fmt.Errorf("back up: %w", err)
		}
		m.Members = append(m.Members, member)
	}
	packed := filepath.Join(temp, "archive")
	if err := pack(packed, src.Passphrase, m, paths); err != nil {
		return m, unwritable(file, err)
	}
	if err := os.Rename(packed, file); err != nil {
		return m, unwritable(file, err)
	}
	return m, atomicfile.SyncDir(filepath.Dir(file))
}

func unwritable(file string, err error) error {
	return &hint.Error{Op: "write backup", On: file, Err: err, Do: "choose a writable folder with more room than the database"}
}

// copyDatabase copies a running server's database as it is at one moment. One that nobody runs is copied file by file
// first, for SQLite would tidy up what the next server wants to see as it was left.
func copyDatabase(ctx context.Context, src Source, temp, to string) (int64, error) {
	from := src.Data.DBFile()
	if !src.Running {
		still := filepath.Join(temp, "still.db")
		for _, suffix := range []string{"", "-wal"} {
			err := atomicfile.Copy(from+suffix, still+suffix, 0o600)
			if err != nil && !(suffix != "" && errors.Is(err, fs.ErrNotExist)) {
				return 0, fmt.Errorf("back up: %w", err)
			}
		}
		from = still
	}
	rev, err := datastore.Copy(ctx, from, to)
	if err != nil {
		return 0, &hint.Error{Op: "back up database", On: src.Data.DBFile(), Err: err,
			Do: "make room if the disk is full; if the database is damaged, start the server, which returns to its last good snapshot"}
	}
	return rev, nil
}

// copyAccounts copies what Pods used and owe, as both were at one moment each; the bills come first, so that none is of a time that the
// ledger does not have.
func copyAccounts(ctx context.Context, src Source, temp string, paths map[string]string) error {
	for _, from := range []string{src.Data.Bills(), src.Data.Ledger()} {
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue // no server of a version that keeps it ran here
		}
		to := filepath.Join(temp, filepath.Base(from))
		if err := sqlfile.Copy(ctx, from, to); err != nil {
			return &hint.Error{Op: "back up", On: from, Err: err, Do: "make room if the disk is full; a damaged file is moved away, and what is in it read with `sqlite3 " + from + " .recover`"}
		}
		name, err := filepath.Rel(string(src.Data), from)
		if err != nil {
			return fmt.Errorf("back up: %w", err)
		}
		paths[dataPrefix+filepath.ToSlash(name)] = to
	}
	return nil
}

// files lists what goes in besides the database: name in the archive, path on the host.
func (s Source) files() (map[string]string, error) {
	found := make(map[string]string)
	for _, a := range []pki.Authority{pki.ServerCA, pki.ClientCA, pki.FrontProxyCA} {
		for _, ext := range []string{".crt", ".key"} {
			found[dataPrefix+"server/tls/"+string(a)+ext] = filepath.Join(s.Data.TLS(), string(a)+ext)
		}
	}
	found[dataPrefix+"server/tls/"+pki.ServiceAccountKey+".key"] = filepath.Join(s.Data.TLS(), pki.ServiceAccountKey+".key")
	if _, err := os.Stat(s.Data.ClusterIDFile()); err == nil {
		found[dataPrefix+"server/cluster-id"] = s.Data.ClusterIDFile()
	}
	settings, err := filepath.Glob(filepath.Join(s.Data.Cred(), "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, path := range settings {
		found[dataPrefix+"server/cred/"+filepath.Base(path)] = path
	}
	if _, err := os.Stat(s.ConfigFile); err == nil {
		found[configPrefix+configName] = s.ConfigFile
	}
	dropIns, err := filepath.Glob(filepath.Join(s.ConfigFile+".d", "*.yaml"))
	for _, path := range dropIns {
		found[configPrefix+configName+".d/"+filepath.Base(path)] = path
	}
	return found, err
}

func describe(name, path string) (m Member, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return Member{Name: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// pack writes the archive, mode 0600 from its first byte on: it holds every key of the cluster.
func pack(to, passphrase string, m Manifest, paths map[string]string) (err error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var out io.WriteCloser = f
	if passphrase != "" {
		if out, err = seal(f, passphrase); err != nil {
			return err
		}
	}
	z, err := zstd.NewWriter(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := add(w, Member{Name: manifestName, Size: int64(len(manifest))}, m.Created, bytes.NewReader(manifest)); err != nil {
		return err
	}
	for _, member := range m.Members {
		if err := addFile(w, member, m.Created, paths[member.Name]); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return err
	}
	if passphrase != "" {
		if err := out.Close(); err != nil { // the mark of its end, without which it does not open
			return err
		}
	}
	return f.Sync()
}

func addFile(w *tar.Writer, m Member, at time.Time, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return add(w, m, at, f)
}

func add(w *tar.Writer, m Member, at time.Time, content io.Reader) error {
	if err := w.WriteHeader(&tar.Header{Name: m.Name, Size: m.Size, Mode: 0o600, ModTime: at, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := io.Copy(w, content); err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return nil
}

// placeOf gives where a member belongs below the folder it is unpacked to, or an error for a name that no archive of
// ours has.
func placeOf(name string) (string, error) {
	if !filepath.IsLocal(name) || !strings.HasPrefix(name, dataPrefix+"server/") && !strings.HasPrefix(name, configPrefix+configName) {
		return "", fmt.Errorf("%q does not belong into a backup", name)
	}
	return filepath.FromSlash(name), nil
}
