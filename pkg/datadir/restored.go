package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// Restored is the note that `restore` leaves in the data folder for the next server: which host the cluster comes from.
type Restored struct {
	Node    string    `json:"node"`
	Host    string    `json:"host"`
	Created time.Time `json:"created"` // of the backup
}

// Restored is where the note lies.
func (d Dir) Restored() string { return d.path("server", "restored.json") }

// Write leaves the note in the data folder dir, in which the folder server exists.
func (r Restored) Write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode note of restore: %w", err)
	}
	return atomicfile.Write(Dir(filepath.Clean(dir)).Restored(), append(data, '\n'), 0o600)
}

// ReadRestored gives the note at path, nil if there is none.
func ReadRestored(path string) (*Restored, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r Restored
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("read note of restore %s: %w", path, err)
	}
	return &r, nil
}
