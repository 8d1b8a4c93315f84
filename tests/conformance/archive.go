package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer is a tar, in memory or a file.
type layer struct {
	tar  []byte
	path string
}

// open gives the tar and its size.
func (l layer) open() (io.ReadCloser, int64, error) {
	if l.path == "" {
		return io.NopCloser(bytes.NewReader(l.tar)), int64(len(l.tar)), nil
	}
	f, err := os.Open(l.path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (l layer) digest() (string, error) {
	in, _, err := l.open()
	if err != nil {
		return "", err
	}
	defer in.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, in); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// manifestEntry is one image in a Docker archive's manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// writeArchive writes images as Docker's archive does. Layers that images share are there once.
func writeArchive(out io.Writer, all []image) error {
	tw := tar.NewWriter(out)
	var manifest []manifestEntry
	digests, written := map[string]string{}, map[string]bool{} // of files, which are large
	for _, img := range all {
		entry := manifestEntry{RepoTags: img.names}
		config := v1.Image{Platform: v1.Platform{Architecture: "amd64", OS: "linux"}, Config: img.config, RootFS: v1.RootFS{Type: "layers"}}
		for _, l := range img.layers {
			sum, err := digests[l.path], error(nil)
			if l.path == "" || sum == "" {
				if sum, err = l.digest(); err != nil {
					return err
				}
				digests[l.path] = sum
			}
			name := sum + ".tar"
			entry.Layers, config.RootFS.DiffIDs = append(entry.Layers, name), append(config.RootFS.DiffIDs, digest.NewDigestFromEncoded(digest.SHA256, sum))
			if written[name] {
				continue
			}
			written[name] = true
			in, size, err := l.open()
			if err != nil {
				return err
			}
			if err := errors.Join(put(tw, name, in, size), in.Close()); err != nil {
				return fmt.Errorf("write layer of %s: %w", img.names[0], err)
			}
		}
		raw, err := json.Marshal(config)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(raw)
		entry.Config = hex.EncodeToString(sum[:]) + ".json"
		if err := put(tw, entry.Config, bytes.NewReader(raw), int64(len(raw))); err != nil {
			return err
		}
		manifest = append(manifest, entry)
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return errors.Join(put(tw, "manifest.json", bytes.NewReader(raw), int64(len(raw))), tw.Close())
}

func put(tw *tar.Writer, name string, in io.Reader, size int64) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(tw, in)
	return err
}

// inTar reads one file of a tar.
func inTar(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			return "", fmt.Errorf("find %s in %s: %w", name, path, err)
		}
		if h.Name == name || h.Name == "./"+name {
			raw, err := io.ReadAll(tr)
			return string(raw), err
		}
	}
}
