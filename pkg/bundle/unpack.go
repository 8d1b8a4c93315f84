package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

// packWindow is how far back the compressor refers, and so what unpacking needs in memory.
const packWindow = 64 << 20

// tmpPrefix begins the names of trees that are not whole yet.
const tmpPrefix = ".tmp-"

// Unpack lays the bundle carried by file out below the folder bundles, unless it is there already, makes it the
// current one and gives its folder. Any number of processes may call it at once. A tree gets its name only when
// every file in it was verified and is on the disk.
func Unpack(file *os.File, bundles string) (string, error) {
	info, err := file.Stat()
	if err != nil {
		return "", fmt.Errorf("read own file: %w", err)
	}
	t, err := ReadTrailer(file, info.Size())
	if err != nil {
		return "", badFile(file, err)
	}
	dir := filepath.Join(bundles, t.Hash)
	if isCurrent(bundles, t.Hash) && checkMarker(dir) == nil {
		return dir, nil
	}
	unlock, err := lock(bundles)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := settle(file, t, dir); err != nil {
		return "", err
	}
	if err := makeCurrent(bundles, t.Hash); err != nil {
		return "", err
	}
	kept, err := previous(bundles) // the server that is being replaced may be between two processes
	if err != nil {
		return "", err
	}
	_, err = prune(bundles, kept)
	return dir, err
}

// settle makes sure that dir holds the whole bundle. It runs under the lock.
func settle(file *os.File, t Trailer, dir string) error {
	if checkMarker(dir) == nil {
		return nil // another process was faster
	}
	if _, err := os.Lstat(dir); err == nil {
		return renew(dir)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), tmpPrefix+t.Hash+"-")
	if err != nil {
		return fmt.Errorf("make folder for bundle: %w", err)
	}
	if err := extract(file, t, tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Join(fmt.Errorf("name bundle: %w", err), os.RemoveAll(tmp))
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// renew marks a tree again whose files were touched but not changed.
func renew(dir string) error {
	if err := Verify(dir); err != nil {
		return err
	}
	m, err := ReadManifest(dir)
	if err != nil {
		return err
	}
	return writeMarker(dir, m)
}

// extract writes the tree into dir, which is empty.
func extract(file *os.File, t Trailer, dir string) error {
	sum := sha256.New()
	packed := io.TeeReader(io.NewSectionReader(file, t.Offset, t.Length), sum)
	stream, err := zstd.NewReader(packed, zstd.WithDecoderMaxWindow(packWindow))
	if err != nil {
		return fmt.Errorf("start decompression: %w", err)
	}
	defer stream.Close()
	raw := make([]byte, t.ManifestSize)
	if _, err := io.ReadFull(stream, raw); err != nil {
		return badFile(file, err)
	}
	if Hash(raw) != t.Hash {
		return badFile(file, ErrCorrupt)
	}
	m, err := DecodeManifest(raw)
	if err != nil {
		return badFile(file, err)
	}
	if err := needSpace(dir, m); err != nil {
		return err
	}
	w := newTreeWriter(dir)
	for _, f := range m.Files {
		if err = w.add(f, stream); err != nil {
			break
		}
	}
	if err = errors.Join(err, w.close()); err != nil {
		if isDamage(err) {
			return badFile(file, err)
		}
		return fmt.Errorf("unpack bundle: %w", err)
	}
	if err := endOfStream(stream, packed); err != nil || !bytes.Equal(sum.Sum(nil), t.SHA256[:]) {
		return badFile(file, errors.Join(err, ErrCorrupt))
	}
	if err := atomicfile.Write(filepath.Join(dir, ManifestName), raw, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("open bundle to readers: %w", err)
	}
	return writeMarker(dir, m)
}

// endOfStream reads what is left, which must be nothing but the end mark.
func endOfStream(stream, packed io.Reader) error {
	extra, err := io.Copy(io.Discard, stream)
	if err == nil && extra > 0 {
		err = fmt.Errorf("%d bytes too many", extra)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, packed)
	return err
}

// isDamage tells a bad payload from a disk that cannot be written.
func isDamage(err error) bool {
	var path *fs.PathError
	return !errors.As(err, &path)
}

func badFile(file *os.File, err error) error {
	return &hint.Error{Op: "unpack", On: file.Name(), Err: err, Do: "the nodeless file is damaged: download it anew, and compare its sha256"}
}

// needSpace asks before a disk fills up half-way.
func needSpace(dir string, m Manifest) error {
	var need int64
	for _, f := range m.Files {
		need += f.dataSize()
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return nil //nolint:nilerr // then writing will tell
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return &hint.Error{
			Op: "unpack bundle into", On: dir, Err: fmt.Errorf("needs %d MB, %d MB are free", need>>20, free>>20),
			Do: "make room, or choose another folder with --data-dir",
		}
	}
	return nil
}

// treeWriter writes files in order; syncing them to the disk goes on beside it.
type treeWriter struct {
	dir     string
	dirs    map[string]bool
	written chan *os.File
	synced  chan error
}

func newTreeWriter(dir string) *treeWriter {
	w := &treeWriter{dir: dir, dirs: map[string]bool{dir: true}, written: make(chan *os.File, 4), synced: make(chan error, 1)}
	go func() {
		var errs []error
		for file := range w.written {
			errs = append(errs, file.Sync(), file.Close())
		}
		w.synced <- errors.Join(errs...)
	}()
	return w
}

// add takes the data of f off the stream.
func (w *treeWriter) add(f File, stream io.Reader) error {
	path := filepath.Join(w.dir, filepath.FromSlash(f.Path))
	for parent := filepath.Dir(path); !w.dirs[parent]; parent = filepath.Dir(parent) {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		w.dirs[parent] = true
	}
	if f.Link != "" {
		return os.Link(filepath.Join(w.dir, filepath.FromSlash(f.Link)), path)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.Mode)
	if err != nil {
		return err
	}
	if err := f.write(file, stream); err != nil {
		return errors.Join(err, file.Close())
	}
	w.written <- file
	return nil
}

// close waits until everything is on the disk, the folders included.
func (w *treeWriter) close() error {
	close(w.written)
	err := <-w.synced
	for dir := range w.dirs {
		err = errors.Join(err, atomicfile.SyncDir(dir))
	}
	return err
}

// write fills file with the next data of stream and checks it. Ranges without data stay holes.
func (f File) write(file *os.File, stream io.Reader) error {
	if err := file.Chmod(f.Mode); err != nil { // the umask may have narrowed it
		return err
	}
	if err := file.Truncate(f.Size); err != nil {
		return err
	}
	h := sha256.New()
	for _, e := range f.data() {
		if _, err := io.CopyN(io.MultiWriter(io.NewOffsetWriter(file, e.Offset), h), stream, e.Length); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s: %w", f.Path, ErrCorrupt)
	}
	return nil
}
