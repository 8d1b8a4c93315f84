package vmm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
)

// scratchDisk is a Pod's writable disk. One that a killed process left behind is found by pkg/teardown.
type scratchDisk struct {
	path string
	file *os.File
}

// FreeScratch is the size of the ordinary writable disk and LargestScratch that of the largest, in GiB.
const (
	FreeScratch    = 20
	LargestScratch = 2048
)

// newDisk makes the Pod's writable disk, of the size that its annotation says. Its file system is as large as the template's; the guest
// grows it.
func (v *vm) newDisk() (*scratchDisk, error) {
	if err := os.MkdirAll(v.cfg.ScratchDir, 0o700); err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	r, err := roomIn(v.cfg.ScratchDir)
	if err == nil {
		err = Disk(v.cfg.Disk).refuses(r)
	}
	if err != nil {
		return nil, err
	}
	gib := int64(FreeScratch)
	annotations, err := readAnnotations(filepath.Join(v.sandbox, "config.json"))
	if text, ok := annotations[contract.RootDisk]; ok && err == nil { // without a configuration nobody has asked for more
		if gib, err = strconv.ParseInt(text, 10, 64); err != nil || gib < FreeScratch || gib > LargestScratch {
			return nil, fmt.Errorf("make a disk of %q GiB: want %d to %d", text, FreeScratch, LargestScratch)
		}
	}
	s, err := newScratch(v.cfg.ScratchTemplate(), v.cfg.ScratchDir, v.id)
	if err != nil {
		return nil, err
	}
	if err := s.file.Truncate(gib << 30); err != nil {
		return nil, errors.Join(fmt.Errorf("make a disk of %d GiB: %w", gib, err), s.remove())
	}
	return s, nil
}

// newScratch copies the template to dir/<id>.ext4, holes left out.
func newScratch(template, dir, id string) (_ *scratchDisk, err error) {
	src, err := os.Open(template)
	if err != nil {
		return nil, fmt.Errorf("open scratch template: %w", err)
	}
	defer src.Close()
	s := &scratchDisk{path: filepath.Join(dir, id+contract.DiskSuffix)}
	if s.file, err = os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("create scratch disk: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create scratch disk %s: %w", s.path, err), s.remove())
		}
	}()
	if err = copySparse(s.file, src); err != nil {
		return nil, err
	}
	return s, nil
}

// allocated is how much of the host's disk it takes.
func (s *scratchDisk) allocated() int64 {
	var st unix.Stat_t
	if unix.Fstat(int(s.file.Fd()), &st) != nil { // an open file always has it
		return 0
	}
	return st.Blocks * 512
}

// remove deletes the disk; QEMU, if it still runs, keeps what it has open.
func (s *scratchDisk) remove() error {
	if s == nil {
		return nil
	}
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.file.Close())
}

// copySparse clones src where the file system can, and copies its data extents elsewhere.
func copySparse(dst, src *os.File) error {
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err == nil {
		return nil
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for off := int64(0); off < st.Size(); {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, hole-data)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}
