package bundle

import (
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
)

// blockSize is the grain of sparse files: a block of zeros becomes a hole.
const blockSize = 4096

// sparseFrom is the size from which a file is searched for holes.
const sparseFrom = 1 << 30

// Scan lists the files of the tree at dir for a manifest. Two names of one file become a link.
func Scan(dir string) ([]File, error) {
	var files []File
	names := map[uint64]string{} // first path of each inode that has several
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == ManifestName || rel == markerName {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is no plain file", rel)
		}
		f := File{Path: filepath.ToSlash(rel), Size: info.Size(), Mode: mode(info)}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			f.Link = names[st.Ino]
			if f.Link == "" {
				names[st.Ino] = f.Path
			}
		}
		if err := f.measure(path); err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", dir, err)
	}
	return files, nil
}

// mode is one of two, whatever the umask of the one who built the tree: the same sources give the same bundle.
func mode(info fs.FileInfo) fs.FileMode {
	if info.Mode().Perm()&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// measure fills in the extents and the hash of f from the file at path.
func (f *File) measure(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if f.Size >= sparseFrom {
		if f.Extents, err = findData(file, f.Size); err != nil {
			return err
		}
	}
	f.SHA256, err = f.sum(file)
	return err
}

// sum hashes the data of f as it is in file.
func (f File) sum(file io.ReaderAt) (string, error) {
	h := sha256.New()
	for _, e := range f.data() {
		n, err := io.Copy(h, io.NewSectionReader(file, e.Offset, e.Length))
		if err != nil {
			return "", err
		}
		if n != e.Length {
			return "", io.ErrUnexpectedEOF
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// findData lists the ranges of file that are not zero, asking the kernel first where it holds any data.
func findData(file *os.File, size int64) ([]Extent, error) {
	const seekData, seekHole = 3, 4
	var found []Extent
	buf := make([]byte, blockSize)
	for at := int64(0); at < size; {
		start, err := file.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return nil, fmt.Errorf("find data of %s: %w", file.Name(), err)
		}
		end, err := file.Seek(start, seekHole)
		if err != nil {
			return nil, fmt.Errorf("find data of %s: %w", file.Name(), err)
		}
		for at = start / blockSize * blockSize; at < end; at += blockSize {
			n, err := file.ReadAt(buf, at)
			if err != nil && err != io.EOF {
				return nil, fmt.Errorf("read %s: %w", file.Name(), err)
			}
			if !isZero(buf[:n]) {
				found = appendExtent(found, Extent{Offset: at, Length: int64(n)})
			}
		}
	}
	return found, nil
}

// appendExtent joins neighbours.
func appendExtent(list []Extent, e Extent) []Extent {
	if n := len(list); n > 0 && list[n-1].Offset+list[n-1].Length == e.Offset {
		list[n-1].Length += e.Length
		return list
	}
	return append(list, e)
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Pack appends the bundle tree at dir to out, which holds a launcher of launcherSize bytes already.
func Pack(dir string, out io.Writer, launcherSize int64) (Trailer, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if err != nil {
		return Trailer{}, fmt.Errorf("read manifest: %w", err)
	}
	m, err := DecodeManifest(raw)
	if err != nil {
		return Trailer{}, err
	}
	counted := &counter{to: out}
	sum := sha256.New()
	stream, err := zstd.NewWriter(io.MultiWriter(counted, sum), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(packWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return Trailer{}, fmt.Errorf("start compression: %w", err)
	}
	if _, err := stream.Write(raw); err != nil {
		return Trailer{}, fmt.Errorf("compress manifest: %w", err)
	}
	for _, f := range m.Files {
		if err := packFile(dir, f, stream); err != nil {
			return Trailer{}, fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := stream.Close(); err != nil {
		return Trailer{}, fmt.Errorf("finish compression: %w", err)
	}
	t := Trailer{Offset: launcherSize, Length: counted.n, ManifestSize: int64(len(raw)), SHA256: [32]byte(sum.Sum(nil)), Hash: Hash(raw)}
	if _, err := out.Write(t.Encode()); err != nil {
		return Trailer{}, fmt.Errorf("write trailer: %w", err)
	}
	return t, nil
}

// packFile refuses a file that is not what the manifest says: a part changed after the manifest was made.
func packFile(dir string, f File, stream io.Writer) error {
	if f.Link != "" {
		return nil
	}
	file, err := os.Open(filepath.Join(dir, f.Path))
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	for _, e := range f.data() {
		if _, err := io.CopyN(io.MultiWriter(stream, h), io.NewSectionReader(file, e.Offset, e.Length), e.Length); err != nil {
			return err
		}
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return ErrCorrupt
	}
	return nil
}

type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
