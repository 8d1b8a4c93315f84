package datastore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// headerSize is the part of a SQLite file that tells two databases apart: it has a counter of changes.
const headerSize = 100

// marker is the clean-shutdown marker: it tells the next process how the last one left the database.
type marker struct {
	Boot   string  `json:"boot"`             // the boot of the host in which it was opened
	Closed *digest `json:"closed,omitempty"` // what it was like when it was closed in order
}

// digest proves that a closed file is still what it was.
type digest struct {
	SHA256 string `json:"sha256"`
	Header string `json:"header"`
}

func (c Config) walFile() string    { return c.File + "-wal" }
func (c Config) markerFile() string { return c.File + ".seal" }

// readMarker gives nil if there is none, or none that can be read: then the database is checked the long way.
func (c Config) readMarker() (*marker, error) {
	data, err := os.ReadFile(c.markerFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read clean-shutdown marker of database: %w", err)
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, nil
	}
	return &m, nil
}

func (c Config) writeMarker(m marker) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode clean-shutdown marker: %w", err)
	}
	return atomicfile.Write(c.markerFile(), append(data, '\n'), 0o600)
}

// bootID names the boot of the host, or nothing where the kernel does not tell.
func (c Config) bootID() string {
	data, err := os.ReadFile(c.BootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func digestOf(path string) (d digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return digest{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	header := make([]byte, headerSize)
	n, err := io.ReadFull(f, header)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return digest{}, err
	}
	sum := sha256.New()
	sum.Write(header[:n])
	if _, err := io.Copy(sum, f); err != nil {
		return digest{}, err
	}
	return digest{SHA256: hex.EncodeToString(sum.Sum(nil)), Header: hex.EncodeToString(header[:n])}, nil
}
