package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ManifestName is the file in a bundle tree that lists all others.
const ManifestName = "bundle.json"

// hashLen is how much of the manifest's hash names a bundle: 64 bits tell versions apart on a disk, while paths stay short.
const hashLen = 16

// Manifest lists what a bundle holds.
type Manifest struct {
	Version string `json:"version"` // of nodeless
	Files   []File `json:"files"`   // in the order in which they are packed
	Parts   []Part `json:"parts"`
}

// File is one file of a bundle.
type File struct {
	Path   string      `json:"path"` // relative, with slashes
	SHA256 string      `json:"sha256"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	// Extents are the ranges that hold data in a sparse file, in order; the hash is of these alone. Empty: the whole file is data.
	Extents []Extent `json:"extents,omitempty"`
	// Link names an earlier file of which this is another name.
	Link string `json:"link,omitempty"`
}

// Extent is a range of bytes in a file.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Where parts come from, as Part.Origin says it.
const (
	OriginOwn    = "this project"
	OriginDebian = "Debian"
	OriginGo     = "Go" // the toolchain's own library
	OriginModule = "Go module"
)

// Part is a work of others, or of ours, that the bundle contains.
type Part struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Origin  string `json:"origin"`
	Licence string `json:"licence"`
}

// data lists the ranges of f that hold data.
func (f File) data() []Extent {
	if len(f.Extents) > 0 {
		return f.Extents
	}
	return []Extent{{Length: f.Size}}
}

// dataSize counts the bytes that f adds to a disk.
func (f File) dataSize() int64 {
	if f.Link != "" {
		return 0
	}
	var n int64
	for _, e := range f.data() {
		n += e.Length
	}
	return n
}

// validate keeps a manifest from reaching outside its tree.
func (m Manifest) validate() error {
	seen := map[string]bool{}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Path) || f.Path == ManifestName || f.Path == markerName {
			return fmt.Errorf("manifest lists %q, which is no place in the bundle", f.Path)
		}
		if seen[f.Path] {
			return fmt.Errorf("manifest lists %q twice", f.Path)
		}
		if f.Link != "" && !seen[f.Link] {
			return fmt.Errorf("manifest links %q to %q, which does not come before it", f.Path, f.Link)
		}
		seen[f.Path] = true
		end := int64(0)
		for _, e := range f.data() {
			if e.Offset < end || e.Length < 0 || e.Offset+e.Length > f.Size {
				return fmt.Errorf("manifest gives %q impossible extents", f.Path)
			}
			end = e.Offset + e.Length
		}
	}
	return nil
}

// Encode gives the content of bundle.json.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(raw, '\n'), nil
}

// DecodeManifest parses the content of bundle.json.
func DecodeManifest(raw []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("decode manifest: %w", err)
	}
	return m, m.validate()
}

// Hash names the bundle that has the manifest raw.
func Hash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])[:hashLen]
}

// ReadManifest reads the manifest of the tree at dir.
func ReadManifest(dir string) (Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("%s is no bundle: %w", dir, err)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	m, err := DecodeManifest(raw)
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}
