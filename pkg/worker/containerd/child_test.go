package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/converter"
	"github.com/nodeless/nodeless/pkg/ociimage"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// TestMain lets the test binary be the child: the component starts its own program with "containerd" as the first argument. It is the
// program that converts layers, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "convert" || os.Args[1] == "merge") {
		os.Exit(converter.Main(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "containerd" {
		if err := Main(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// running is the component with its child, and a registry that it knows as a mirror of docker.io.
type running struct {
	t        *testing.T
	cfg      Config
	registry *testregistry.Registry
	host     string         // of the registry
	spare    []net.Listener // for other registries, which the operator's file names
	conn     *grpc.ClientConn
	images   cri.ImageServiceClient
	client   *client.Client
}

func startChild(t *testing.T, change ...func(*Config)) *running {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: containerd needs root")
	}
	dir, err := os.MkdirTemp("", "nl-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, cfg: exampleConfig()}
	if r.cfg.Program, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	r.cfg.Converter, r.cfg.Memory = r.cfg.Program, Memory{}
	for _, place := range []*string{
		&r.cfg.BundleImages, &r.cfg.Root, &r.cfg.State, &r.cfg.Socket, &r.cfg.ConfigFile, &r.cfg.KataFile, &r.cfg.CNIConf, &r.cfg.Images, &r.cfg.Certs, &r.cfg.Registries,
	} {
		*place = filepath.Join(dir, filepath.Base(*place))
	}
	r.cfg.BundleImages, r.cfg.Restricted = filepath.Join(dir, "bundle"), !hasSysResource("/proc/self/status")
	for _, f := range change {
		f(&r.cfg)
	}
	r.serve(dir)
	r.start(dir)
	return r
}

func (r *running) serve(dir string) {
	r.t.Helper()
	var err error
	if r.registry, err = testregistry.New("127.0.0.1"); err != nil {
		r.t.Fatal(err)
	}
	r.registry.AddUser("operator", "of-the-file")
	r.registry.AddUser("pod", "of-the-secret")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.registry.Serve(l, false)
	r.host = l.Addr().String()
	var more strings.Builder
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = l.Close() })
		r.spare = append(r.spare, l)
		fmt.Fprintf(&more, "  %s: {}\n", l.Addr())
	}
	file := fmt.Sprintf(`
mirrors:
  docker.io: {endpoint: ["https://%[1]s"], rewrite: {"^library/(.*)$": hub/$1}}
configs:
  %[1]s: {auth: {username: operator, password: of-the-file}, tls: {ca_file: %[2]s/ca.pem}}
  %[3]s: {}
%[4]s`, r.host, dir, r.elsewhere(), more.String())
	for name, data := range map[string][]byte{"ca.pem": r.registry.CA, filepath.Base(r.cfg.Registries): []byte(file)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// elsewhere is the registry by another name, at which the operator's file has no password for it.
func (r *running) elsewhere() string { return strings.Replace(r.host, "127.0.0.1", "localhost", 1) }

// start runs the component until the end of the test.
func (r *running) start(dir string) {
	t := r.t
	t.Helper()
	writeArchive(t, filepath.Join(r.cfg.BundleImages, "pause.tar"), PauseImage)
	ctx, cancel := context.WithCancel(context.Background())
	c := New(r.cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, r.registry.Close(), os.RemoveAll(dir)); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	wait, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- c.Ready(wait) }()
	select {
	case err := <-ended:
		ended <- err
		t.Fatalf("containerd ended: %v", err)
	case err := <-failed:
		if err != nil {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient("unix://"+r.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.conn, r.images = conn, cri.NewImageServiceClient(conn)
	if r.client, err = client.New(r.cfg.Socket, client.WithDefaultNamespace(contract.CRINamespace)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(conn.Close(), r.client.Close()) })
}

// push puts an image of the layers into the registry.
func (r *running) push(name string, layers ...testregistry.Layer) digest.Digest {
	r.t.Helper()
	sum, err := r.registry.Push(name, "1", testregistry.Image{Config: v1.ImageConfig{Entrypoint: []string{"/x"}}, Layers: layers})
	if err != nil {
		r.t.Fatal(err)
	}
	return sum
}

// pull pulls as the kubelet does, with the Pod's credentials if there are any.
func (r *running) pull(ref string, auth *cri.AuthConfig) error {
	return r.pullFor(r.t.Context(), "default", ref, auth)
}

// pullFor pulls for a Pod of the namespace, as pkg/worker/cri hands it on.
func (r *running) pullFor(ctx context.Context, namespace, ref string, auth *cri.AuthConfig) error {
	_, err := r.images.PullImage(metadata.AppendToOutgoingContext(ctx, api.PodNamespaceHeader, namespace), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth})
	return err
}

func layer(format string, entries ...testregistry.Entry) testregistry.Layer {
	return testregistry.Layer{Tar: testregistry.Tar(entries...), Format: format}
}

func TestImagesArePulled(t *testing.T) {
	r := startChild(t)
	f, dir, link, hard := testregistry.File, testregistry.Dir, testregistry.Symlink, testregistry.Hardlink
	plain := layer("gzip", f("x", 0o755, "x"))
	sum := r.push("hub/plain", plain)
	for name, images := range map[string][]testregistry.Image{
		"hub/both":    {{Arch: "arm64", Layers: []testregistry.Layer{layer("", f("arm64", 0o644, ""))}}, {Layers: []testregistry.Layer{layer("zstd", f("amd64", 0o644, ""))}}},
		"hub/foreign": {{Arch: "arm64", Layers: []testregistry.Layer{plain}}, {Arch: "s390x", Layers: []testregistry.Layer{plain}}},
	} {
		if _, err := r.registry.PushIndex(name, "1", images...); err != nil {
			t.Fatal(err)
		}
	}
	lie := digest.FromString("something else")
	r.push("hub/odd", layer("gzip", f("../../../../tmp/up", 0o644, ""), f("/abs", 0o644, ""), dir("d", 0o1777), link("way", "../../../etc"), f("way/in", 0o644, ""), hard("same", "abs")),
		layer("zstd", f("way/through", 0o644, ""), f("d/.wh..wh..opq", 0, ""), f(".wh.abs", 0, "")), layer(""))
	r.push("hub/steal", layer("gzip", hard("stolen", "../../../../etc/shadow")))
	r.push("hub/loop", layer("gzip", link("a", "b"), link("b", "a"), f("a/x", 0o644, "")))
	r.push("hub/garbage", testregistry.Layer{Tar: []byte(strings.Repeat("this is no tar ", 100)), Format: "gzip"})
	r.push("hub/not-gzip", testregistry.Layer{Tar: []byte("x"), Format: "gzip", Digest: lie})
	r.push("hub/liar-inside", testregistry.Layer{Tar: testregistry.Tar(f("y", 0o644, "y")), Format: "gzip", DiffID: lie})
	r.push("hub/bomb", testregistry.Layer{Tar: testregistry.Sparse("bomb", 2<<40, "x"), Format: "gzip"})
	r.push("hub/large", testregistry.Layer{Tar: testregistry.Sparse("large", 5<<30, "x"), Format: "zstd"})

	for ref, refused := range map[string][]string{
		"plain:1": nil, "docker.io/library/plain@" + sum.String(): nil, "both:1": nil, "odd:1": nil, "large:1": nil, r.host + "/hub/plain:1": nil,
		"plain:2":   {"docker.io/library/plain:2", "not found"},
		"foreign:1": {"no match for platform"},
		"steal:1":   {"the lowest layer has a hard link to a file that it lacks"}, "loop:1": {"symlinks"}, "garbage:1": {"not a valid layer"}, "bomb:1": {"too large"},
		"not-gzip:1": {"digest"}, "liar-inside:1": {"diff id"},
	} {
		t.Run(ref, func(t *testing.T) {
			err := r.pull(ref, nil)
			if (err == nil) != (refused == nil) {
				t.Errorf("pull: %v, want a fault with %q", err, refused)
			}
			for _, word := range refused {
				if err != nil && !strings.Contains(err.Error(), word) {
					t.Errorf("the fault lacks %q: %v", word, err)
				}
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		mine := r.elsewhere()
		if err := r.pull(mine+"/hub/plain:1", &cri.AuthConfig{Username: "pod", Password: "wrong"}); err == nil || !strings.Contains(err.Error(), "401 Unauthorized") {
			t.Errorf("with a wrong password: %v", err)
		}
		if err := r.pull(mine+"/hub/plain:1", nil); err == nil || !strings.Contains(err.Error(), "authorization failed") {
			t.Errorf("without a password: %v", err)
		}
		if err := r.pull(mine+"/hub/plain:1", &cri.AuthConfig{Username: "pod", Password: "of-the-secret"}); err != nil {
			t.Errorf("with the Pod's password: %v", err)
		}
	})
	if left, err := filepath.Glob(filepath.Join(r.cfg.Root, "io.containerd.snapshotter.v1.erofs", "snapshots", "*", ".tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("refused layers have left %q, %v", left, err)
	}
}

// TestImportedImagesArePinned: the kubelet must not remove an image that came from a file, until the file is gone.
func TestImportedImagesArePinned(t *testing.T) {
	r := startChild(t)
	r.push("hub/pulled", layer("", testregistry.File("x", 0o644, "x")))
	if err := r.pull("pulled:1", nil); err != nil {
		t.Fatal(err)
	}
	im, err := newImporter(r.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer im.close()
	file := filepath.Join(r.cfg.Images, "mine.tar")
	writeArchive(t, file, "docker.io/me/mine:1")
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"imported", func() error { return nil }, true},
		{"seen again, after somebody has unpinned it", func() error { return im.label(t.Context(), "docker.io/me/mine:1", "") }, true},
		{"without its file", func() error { return os.Remove(file) }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if errs := im.importAll(t.Context(), r.cfg.Images); len(errs) > 0 {
			t.Fatalf("%s: %v", step.name, errs)
		}
		r.untilPinned(step.name, map[string]bool{"docker.io/me/mine:1": step.want, PauseImage: true, "docker.io/library/pulled:1": false})
	}
}

// writeArchive writes an archive of a small image.
func writeArchive(t *testing.T, path, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = ociimage.Write(f, ociimage.Image{Name: name, Layers: [][]ociimage.File{{{Path: "/x", Mode: 0o755, Data: []byte(name)}}}})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// untilPinned waits until CRI says of the images whether they are pinned.
func (r *running) untilPinned(when string, want map[string]bool) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		list, err := r.images.ListImages(r.t.Context(), &cri.ListImagesRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		got := map[string]bool{}
		for _, image := range list.Images {
			for _, name := range image.RepoTags {
				got[name] = image.Pinned
			}
		}
		if maps.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: pinned are %v, want %v", when, got, want)
		}
		time.Sleep(pollInterval)
	}
}

// TestRemovedImageFreesItsDisk: what was downloaded, the layers and the merged image go when the image goes.
func TestRemovedImageFreesItsDisk(t *testing.T) {
	r := startChild(t)
	fat := make([]byte, 8<<20)
	if _, err := rand.Read(fat); err != nil {
		t.Fatal(err)
	}
	before := r.used()
	r.push("hub/fat", layer("", testregistry.File("lower", 0o644, "x")), layer("", testregistry.File("fat", 0o644, string(fat))))
	if err := r.pull("fat:1", nil); err != nil {
		t.Fatal(err)
	}
	image, err := r.client.GetImage(t.Context(), "docker.io/library/fat:1")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := image.RootFS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A container's view of the image has the layers merged.
	snapshots := r.client.SnapshotService(snapshotter)
	if _, err := snapshots.View(t.Context(), "container", chainID(ids)); err != nil {
		t.Fatal(err)
	}
	if took := r.used() - before; took < 3*int64(len(fat)) {
		t.Errorf("the image takes %d bytes, want at least three times its %d", took, len(fat))
	}
	if err := snapshots.Remove(t.Context(), "container"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "fat:1"}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for r.used()-before > int64(len(fat))/4 {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes more than before the image are still taken", r.used()-before)
		}
		time.Sleep(pollInterval)
	}
	if err := r.pull("fat:1", nil); err != nil {
		t.Errorf("pull it again: %v", err)
	}
}

// chainID names the topmost snapshot of the layers.
func chainID(layers []digest.Digest) string {
	id := layers[0]
	for _, l := range layers[1:] {
		id = digest.FromString(id.String() + " " + l.String())
	}
	return id.String()
}

// used is what the files below containerd's root take on disk.
func (r *running) used() (bytes int64) {
	r.t.Helper()
	err := filepath.WalkDir(r.cfg.Root, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes
}
