package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/converter"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// fast are the limits of pulls, quick enough for a test.
func fast(c *Config) {
	c.Pull = pull.Limits{Timeout: time.Minute, Rate: 16 << 10, Window: 3 * time.Second}
}

// second starts a registry that a tenant runs himself.
func (r *running) second() (*testregistry.Registry, string) {
	r.t.Helper()
	own, err := testregistry.New("127.0.0.1")
	if err != nil {
		r.t.Fatal(err)
	}
	l := r.spare[0]
	r.spare = r.spare[1:]
	own.Serve(l, false)
	r.t.Cleanup(func() {
		if err := own.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return own, l.Addr().String()
}

// noise is content that no other test has.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}

// drip sends a byte now and then, until nobody listens.
func drip(size int, begun chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.WriteHeader(http.StatusOK)
		if req.Method == http.MethodHead {
			return
		}
		begun <- req.URL.Path
		for range size {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-req.Context().Done():
				return
			}
		}
	}
}

// TestAttackARegistryThatNeverEnds: a tenant pulls from a registry of his own that sends a byte now and then.
func TestAttackARegistryThatNeverEnds(t *testing.T) {
	r := startChild(t, fast)
	own, host := r.second()
	begun := make(chan string, 100)
	const images, layers = 3, 4
	theirs := layer("gzip", testregistry.File("theirs", 0o644, noise(100<<10)))
	sum := r.push("hub/theirs", theirs)
	failed := make(chan error, images)
	for i := range images {
		name := fmt.Sprintf("slow-%d", i)
		// The image claims to have the neighbour's layer.
		img := testregistry.Image{Config: v1.ImageConfig{Entrypoint: []string{"/x"}}, Layers: []testregistry.Layer{theirs}}
		for range layers {
			img.Layers = append(img.Layers, layer("", testregistry.File("x", 0o644, noise(100<<10))))
		}
		manifest, err := own.Push(name, "1", img)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range blobsOf(t, own, name, manifest) {
			own.Handle("/v2/"+name+"/blobs/"+d.Digest.String(), drip(int(d.Size), begun))
		}
		go func() { failed <- r.pullFor(t.Context(), "greedy", host+"/"+name+":1", nil) }()
	}
	<-begun
	attack.Try(t, "T8", "pulls of one namespace that never end hold those of another", func(t *testing.T) attack.Outcome {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := r.pullFor(ctx, "neighbour", "docker.io/library/theirs@"+sum.String(), nil); err != nil {
			t.Errorf("the neighbour's pull: %v", err)
		}
		t.Logf("the neighbour's pull took %s", time.Since(began))
		return attack.Contained
	})
	attack.Try(t, "T8", "a registry sends a byte now and then", func(t *testing.T) attack.Outcome {
		for range images {
			select {
			case err := <-failed:
				if err == nil || !strings.Contains(err.Error(), pull.ErrTooSlow.Error()) {
					t.Errorf("the slow pull = %v, want %v", err, pull.ErrTooSlow)
				}
			case <-time.After(time.Minute):
				t.Fatal("a slow pull is still going on")
			}
		}
		return attack.Refused
	})
}

// TestAttackALayerThatContainerdSurvives: the process that converts one tenant's layer dies of it. His pull fails with the reason,
// another's of the same moment does not, and containerd lives.
func TestAttackALayerThatContainerdSurvives(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	poor := filepath.Join(t.TempDir(), "converter") // with less memory than a large layer needs
	if err := os.WriteFile(poor, []byte("#!/bin/sh\nexec "+self+" \"$1\" 200000000 \"$3\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := startChild(t, func(c *Config) { c.Converter = poor })
	many := make([]testregistry.Entry, 500_000)
	for i := range many {
		many[i] = testregistry.File(fmt.Sprintf("%03d/%d", i/1000, i), 0o644, "")
	}
	r.push("hub/fatal", layer("zstd", many...))
	r.push("hub/plain", layer("gzip", testregistry.File("x", 0o644, "x")))
	attack.Try(t, "T8", "a layer that the process that converts it dies of", func(t *testing.T) attack.Outcome {
		fatal := make(chan error, 1)
		go func() { fatal <- r.pullFor(t.Context(), "greedy", "fatal:1", nil) }()
		if err := r.pullFor(t.Context(), "neighbour", "plain:1", nil); err != nil {
			t.Errorf("the neighbour's pull: %v", err)
		}
		// Go's runtime says "out of memory" where it asks for some, and is ended by a signal where it has not.
		if err := <-fatal; err == nil || !strings.Contains(err.Error(), converter.ErrEnded.Error()+": ") || !strings.Contains(err.Error(), "memory") && !strings.Contains(err.Error(), "SIGSEGV") {
			t.Errorf("the pull = %v, want %v and of what", err, converter.ErrEnded)
		}
		if err := r.pullFor(t.Context(), "neighbour", "docker.io/library/plain:1", nil); err != nil {
			t.Errorf("the neighbour's next pull: %v", err)
		}
		return attack.Refused
	})
}

// blobsOf are the layers of an image in a registry.
func blobsOf(t *testing.T, own *testregistry.Registry, name string, manifest digest.Digest) []v1.Descriptor {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/"+name+"/manifests/"+manifest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(own.Get(req), &m); err != nil {
		t.Fatal(err)
	}
	return m.Layers
}

// TestAttackHalfALayerOfAStranger: what one namespace has left half fetched, wrong or not, is nobody else's beginning.
func TestAttackHalfALayerOfAStranger(t *testing.T) {
	r := startChild(t, fast)
	attack.Try(t, "T8", "wrong bytes under the digest of a stranger's layer", func(t *testing.T) attack.Outcome {
		theirs := layer("", testregistry.File("theirs", 0o644, noise(64<<10)))
		r.push("hub/theirs", theirs)
		own, host := r.second()
		if _, err := own.Push("poison", "1", testregistry.Image{Layers: []testregistry.Layer{theirs}}); err != nil {
			t.Fatal(err)
		}
		own.Handle("/v2/poison/blobs/"+digest.FromBytes(theirs.Tar).String(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(theirs.Tar)))
			_, _ = w.Write(make([]byte, len(theirs.Tar))) // the right number of wrong bytes
		})
		for _, who := range []string{"greedy", "greedy"} {
			if err := r.pullFor(t.Context(), who, host+"/poison:1", nil); err == nil {
				t.Fatal("the wrong layer was taken")
			}
		}
		if err := r.pullFor(t.Context(), "neighbour", "theirs:1", nil); err != nil {
			t.Errorf("the neighbour's pull: %v", err)
		}
		return attack.Contained
	})
}

// TestAttackAnswersWithoutEnd: what containerd reads into memory is bounded, whoever sends it.
func TestAttackAnswersWithoutEnd(t *testing.T) {
	r := startChild(t, fast)
	own, host := r.second()
	const large = 512 << 20
	endless := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Docker-Content-Digest", digest.FromString("endless").String())
			w.Header().Set("Content-Length", strconv.Itoa(large))
			block := []byte(strings.Repeat(" ", 1<<20))
			for range large >> 20 {
				if _, err := w.Write(block); req.Method == http.MethodHead || err != nil {
					return
				}
			}
		}
	}
	for what, kind := range map[string]string{"manifest": v1.MediaTypeImageManifest, "index": v1.MediaTypeImageIndex} {
		attack.Try(t, "T8", "half a gigabyte of "+what, func(t *testing.T) attack.Outcome {
			own.Handle("/v2/"+what+"/manifests/1", endless(kind))
			own.Handle("/v2/"+what+"/manifests/"+digest.FromString("endless").String(), endless(kind))
			if err := r.pullFor(t.Context(), "greedy", host+"/"+what+":1", nil); err == nil {
				t.Error("it was taken")
			}
			return attack.Refused
		})
	}
	attack.Try(t, "T8", "a token without end", func(t *testing.T) attack.Outcome {
		own.Handle("/v2/token/manifests/1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+host+`/token",service="x",scope="y"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		own.Handle("/token", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"token":"`))
			block := []byte(strings.Repeat("x", 1<<20))
			for range large >> 20 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		})
		if err := r.pullFor(t.Context(), "greedy", host+"/token:1", nil); err == nil || !strings.Contains(err.Error(), pull.ErrTooLarge.Error()) {
			t.Errorf("pull = %v, want %v", err, pull.ErrTooLarge)
		}
		return attack.Refused
	})
}

// private is an image that only who has the password may have, pulled by one namespace.
type private struct {
	*running
	layer testregistry.Layer
	image digest.Digest
	m     v1.Manifest
	raw   []byte
}

func pullPrivate(t *testing.T) *private {
	t.Helper()
	r := startChild(t, fast)
	p := &private{running: r, layer: layer("gzip", testregistry.File("key", 0o600, noise(10<<10)))}
	p.image = r.push("hub/private", p.layer)
	mine := r.elsewhere()
	if err := r.pullFor(t.Context(), "owner", mine+"/hub/private:1", &cri.AuthConfig{Username: "pod", Password: "of-the-secret"}); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/hub/private/manifests/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.raw = r.registry.Get(req)
	if err := json.Unmarshal(p.raw, &p.m); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAttackADigestIsNoPassword: who knows what a stranger's private image consists of does not get it from what is on the host.
func TestAttackADigestIsNoPassword(t *testing.T) {
	p := pullPrivate(t)
	own, host := p.second()
	refused := func(t *testing.T, name string) attack.Outcome {
		t.Helper()
		if err := p.pullFor(t.Context(), "greedy", host+"/"+name+":1", nil); err == nil {
			t.Errorf("%s was pulled", name)
		}
		return attack.Refused
	}
	attack.Try(t, "T22", "a registry that names the digest of a private manifest", func(t *testing.T) attack.Outcome {
		own.Handle("/v2/whole/manifests/1", func(w http.ResponseWriter, _ *http.Request) { // all that it knows
			w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", p.image.String())
			w.Header().Set("Content-Length", strconv.Itoa(len(p.raw)))
		})
		return refused(t, "whole")
	})
	attack.Try(t, "T22", "a manifest that names a private layer", func(t *testing.T) attack.Outcome {
		config := p.config(t)
		config.Author = "somebody else"
		p.manifest(t, own, "layer", config, p.m.Layers)
		return refused(t, "layer")
	})
	attack.Try(t, "T22", "a manifest that names a private configuration", func(t *testing.T) attack.Outcome {
		own.PutManifest(t, "config", v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: p.m.Config, Layers: p.m.Layers})
		return refused(t, "config")
	})
	attack.Try(t, "T22", "a configuration that names private layers over other ones", func(t *testing.T) attack.Outcome {
		junk := testregistry.Layer{Tar: testregistry.Tar(testregistry.File("junk", 0o644, "")), Format: "gzip", DiffID: p.config(t).RootFS.DiffIDs[0]}
		if _, err := own.Push("junk", "1", testregistry.Image{Layers: []testregistry.Layer{junk}}); err != nil {
			t.Fatal(err)
		}
		return refused(t, "junk")
	})
	attack.Try(t, "T22", "a configuration of another type that names private layers", func(t *testing.T) attack.Outcome {
		config := p.config(t)
		config.Author = "a third one"
		p.manifest(t, own, "artifact", config, nil, "application/vnd.example+json")
		return refused(t, "artifact")
	})
}

// TestSharedLayersAreFetchedOnce: whose registry shows that it has a layer gets the one that is there.
func TestSharedLayersAreFetchedOnce(t *testing.T) {
	p := pullPrivate(t)
	mine := p.elsewhere()
	auth := &cri.AuthConfig{Username: "pod", Password: "of-the-secret"}
	blob := "pod GET /v2/%s/blobs/" + p.m.Layers[0].Digest.String()
	p.push("hub/other", p.layer, layer("", testregistry.File("more", 0o644, "")))
	for _, name := range []string{"private", "other"} {
		if err := p.pullFor(t.Context(), "second", mine+"/hub/"+name+":1", auth); err != nil {
			t.Errorf("pull of %s: %v", name, err)
		}
	}
	got := strings.Join(p.registry.Requests(), "\n")
	if strings.Count(got, fmt.Sprintf(blob, "hub/private")) != 1 || strings.Contains(got, fmt.Sprintf(blob, "hub/other")) {
		t.Errorf("the layer was fetched again:\n%s", got)
	}
	own, host := p.second()
	if _, err := own.Push("copy", "1", testregistry.Image{Config: v1.ImageConfig{Entrypoint: []string{"/x"}}, Layers: []testregistry.Layer{p.layer}}); err != nil {
		t.Fatal(err)
	}
	if err := p.pullFor(t.Context(), "second", host+"/copy:1", nil); err != nil {
		t.Errorf("pull from another registry that has it: %v", err)
	}
}

// config is the private image's configuration, which an attacker may have seen.
func (p *private) config(t *testing.T) v1.Image {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/hub/private/blobs/"+p.m.Config.Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(p.registry.Get(req), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// manifest puts an image into a registry that has its configuration, and not its layers.
func (p *private) manifest(t *testing.T, own *testregistry.Registry, name string, config v1.Image, layers []v1.Descriptor, mediaType ...string) {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	desc := v1.Descriptor{MediaType: strings.Join(append(mediaType, v1.MediaTypeImageConfig)[:1], ""), Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	own.Handle("/v2/"+name+"/blobs/"+desc.Digest.String(), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) })
	own.PutManifest(t, name, v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: desc, Layers: layers})
}
