package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeless/nodeless/pkg/hint"
)

// ErrCorrupt means that a file is not the one that was packed.
var ErrCorrupt = errors.New("content does not match its checksum")

// Verify hashes every file of the unpacked bundle at dir and names the first that is not what was packed.
func Verify(dir string) error {
	m, err := ReadManifest(dir)
	if err != nil {
		return damaged(dir, ManifestName, err)
	}
	for _, f := range m.Files {
		if err := f.verify(filepath.Join(dir, f.Path)); err != nil {
			return damaged(dir, f.Path, err)
		}
	}
	return nil
}

// verify compares the file at path with what the manifest says.
func (f File) verify(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != f.Size {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrCorrupt, info.Size(), f.Size)
	}
	sum, err := f.sum(file)
	if err != nil {
		return err
	}
	if sum != f.SHA256 {
		return ErrCorrupt
	}
	return nil
}

// damaged names the bad file and the way out.
func damaged(dir, name string, err error) error {
	return &hint.Error{
		Op: "verify", On: filepath.Join(dir, name), Err: err,
		Do: fmt.Sprintf("stop nodeless, remove %s and start again: the nodeless file unpacks it anew", dir),
	}
}
