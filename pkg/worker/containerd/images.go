package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/hint"
)

// CRI tells the kubelet that an image with this label is not to be removed.
const (
	pinLabel = "io.cri-containerd.pinned"
	pinned   = "pinned"
)

// ErrNoImage marks an archive that holds no named image.
var ErrNoImage = errors.New("it holds no image with a name")

// archive is what is remembered of an imported file.
type archive struct {
	Size   int64     `json:"size"`
	Time   time.Time `json:"time"`
	SHA256 string    `json:"sha256"`
	Images []string  `json:"images"`
}

// importer imports archives, each once: it remembers them by content, and looks whether their images are still there.
type importer struct {
	client *client.Client
	log    *slog.Logger
	memory string             // file that keeps known
	known  map[string]archive // by path
}

func newImporter(cfg Config, log *slog.Logger) (*importer, error) {
	c, err := client.New(cfg.Socket, client.WithDefaultNamespace(contract.CRINamespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	im := &importer{client: c, log: log, memory: filepath.Join(cfg.Root, "imported.json"), known: map[string]archive{}}
	raw, err := os.ReadFile(im.memory)
	if err == nil {
		err = json.Unmarshal(raw, &im.known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("imported archives forgotten", "file", im.memory, "error", err)
		im.known = map[string]archive{}
	}
	return im, nil
}

func (im *importer) close() {
	if err := im.client.Close(); err != nil {
		im.log.Debug("client not closed", "error", err)
	}
}

// importAll imports each *.tar in dir, and lets go of what came from archives that are gone. One that fails does not keep
// the others back; each fault names its file.
func (im *importer) importAll(ctx context.Context, dir string) (errs []error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return []error{fmt.Errorf("list image archives in %s: %w", dir, err)}
	}
	for path := range im.known {
		if filepath.Dir(path) != dir || slices.Contains(files, path) {
			continue
		}
		if err := im.forget(ctx, path); err != nil {
			errs = append(errs, err)
		}
	}
	for _, file := range files {
		if err := im.importFile(ctx, file); err != nil {
			errs = append(errs, &hint.Error{Op: "import images from", On: file, Err: err,
				Do: "put archives made by `docker save` or `ctr images export` there, whole files, and start again"})
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errs
}

func (im *importer) importFile(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	seen := archive{Size: info.Size(), Time: info.ModTime()}
	old, known := im.known[path]
	if known && old.Size == seen.Size && old.Time.Equal(seen.Time) {
		seen.SHA256 = old.SHA256
	} else if seen.SHA256, err = hash(f); err != nil {
		return err
	}
	if known && seen.SHA256 == old.SHA256 && im.allPresent(ctx, old.Images) {
		seen.Images = old.Images
		for _, name := range seen.Images {
			if err := im.label(ctx, name, pinned); err != nil {
				return fmt.Errorf("pin image %s: %w", name, err)
			}
		}
		return im.remember(path, seen)
	}
	began := time.Now()
	if seen.Images, err = im.load(ctx, f); err != nil {
		return err
	}
	im.log.Info("images imported", "file", path, "images", seen.Images, "took", time.Since(began).Round(time.Millisecond))
	return im.remember(path, seen)
}

// load puts the images of the archive into containerd and unpacks them.
func (im *importer) load(ctx context.Context, f io.ReadSeeker) ([]string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	plain, err := compression.DecompressStream(f)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	defer plain.Close()
	ctx, done, err := im.client.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("take a lease: %w", err)
	}
	defer func() {
		if err := done(context.WithoutCancel(ctx)); err != nil {
			im.log.Debug("lease not released", "error", err)
		}
	}()
	found, err := im.client.Import(ctx, plain)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if len(found) == 0 {
		return nil, ErrNoImage
	}
	var names []string
	for _, image := range found {
		if err := im.unpack(ctx, image); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", image.Name, err)
		}
		names = append(names, image.Name)
	}
	return names, nil
}

// unpack also pins the image: the kubelet, when it needs room, must not remove what no registry may have.
func (im *importer) unpack(ctx context.Context, image images.Image) error {
	if err := client.NewImage(im.client, image).Unpack(ctx, snapshotter); err != nil {
		return err
	}
	return im.label(ctx, image.Name, pinned)
}

// forget leaves the images of an archive that is gone to the kubelet.
func (im *importer) forget(ctx context.Context, path string) error {
	for _, name := range im.known[path].Images {
		if name == PauseImage {
			continue
		}
		if err := im.label(ctx, name, ""); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("unpin image %s: %w", name, err)
		}
	}
	delete(im.known, path)
	return im.save()
}

// label pins an image, or unpins it if the value is empty.
func (im *importer) label(ctx context.Context, name, value string) error {
	image := images.Image{Name: name, Labels: map[string]string{}}
	if value != "" {
		image.Labels[pinLabel] = value
	}
	_, err := im.client.ImageService().Update(ctx, image, "labels."+pinLabel)
	return err
}

func (im *importer) allPresent(ctx context.Context, names []string) bool {
	for _, name := range names {
		if im.present(ctx, name) != nil {
			return false
		}
	}
	return len(names) > 0
}

// present checks that an image is there and unpacked.
func (im *importer) present(ctx context.Context, name string) error {
	image, err := im.client.GetImage(ctx, name)
	if err != nil {
		return err
	}
	unpacked, err := image.IsUnpacked(ctx, snapshotter)
	if err == nil && !unpacked {
		err = fmt.Errorf("image %s: not unpacked", name)
	}
	return err
}

func (im *importer) remember(path string, seen archive) error {
	if old, ok := im.known[path]; ok && old.SHA256 == seen.SHA256 && old.Time.Equal(seen.Time) && len(old.Images) == len(seen.Images) {
		return nil
	}
	im.known[path] = seen
	return im.save()
}

func (im *importer) save() error {
	raw, err := json.MarshalIndent(im.known, "", "  ")
	if err != nil {
		return fmt.Errorf("encode imported archives: %w", err)
	}
	return atomicfile.Write(im.memory, raw, 0o600)
}

func hash(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("read archive: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
