package vm_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// The registry of the shared host, which goes by two names: the operator's file makes it a mirror of docker.io under the
// first and gives nodeless a password for it; for the second it only says whom to trust.
const (
	mirrorHost  = "mirror.test:" + testcluster.RegistryPort
	privateHost = "private.test:" + testcluster.RegistryPort

	registriesYAML = `
mirrors:
  docker.io:
    endpoint: ["https://` + mirrorHost + `"]
    rewrite: {"^library/(.*)$": "hub/$1"}
configs:
  ` + mirrorHost + `:
    auth: {username: operator, password: of-the-file}
    tls: {ca_file: ` + testcluster.RegistryCA + `}
  ` + privateHost + `:
    tls: {ca_file: ` + testcluster.RegistryCA + `}
`
)

// newRegistry serves the registry in the shared host.
func newRegistry(h *testbed.Host) (*testregistry.Registry, error) {
	r, err := testregistry.New("mirror.test", "private.test")
	if err != nil {
		return nil, err
	}
	r.AddUser("operator", "of-the-file")
	r.AddUser("pod", "of-the-secret")
	return r, testcluster.ServeRegistry(h, r, registriesYAML, "mirror.test private.test")
}

// needRegistry skips a test where the shared host has no registry of ours.
func needRegistry(t *testing.T) {
	t.Helper()
	shared.OwnHost(t, "the registry of the tests is served in one")
}

// push puts an image over the tools of the bundle's own image into the registry. A layer below is a layer of tools that
// all of them share, so that each costs next to nothing.
func (s *space) push(name string, config v1.ImageConfig, layers ...testregistry.Layer) string {
	s.T.Helper()
	sum, err := registry.Push(name, "1", s.image("amd64", config, layers...))
	if err != nil {
		s.T.Fatal(err)
	}
	return sum.String()
}

func (s *space) image(arch string, config v1.ImageConfig, layers ...testregistry.Layer) testregistry.Image {
	s.T.Helper()
	if config.Env == nil {
		config.Env = []string{"PATH=/bin"}
	}
	tools := testregistry.Layer{Tar: tools(s.T, s.Host)}
	return testregistry.Image{Arch: arch, Config: config, Layers: append([]testregistry.Layer{tools}, layers...)}
}

// tools is the lowest layer of the bundle's image "hello": busybox, /etc/passwd and /tmp.
func tools(t *testing.T, h *testbed.Host) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(filepath.Dir(h.Program), "..", "images", "hello.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[hdr.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(desc v1.Descriptor) []byte {
		return files[path.Join(v1.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())]
	}
	var index v1.Index
	if err := json.Unmarshal(files[v1.ImageIndexFile], &index); err != nil || len(index.Manifests) == 0 {
		t.Fatalf("index of %s: %v", f.Name(), err)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(blob(index.Manifests[0]), &manifest); err != nil || len(manifest.Layers) == 0 {
		t.Fatalf("manifest of %s: %v", f.Name(), err)
	}
	return blob(manifest.Layers[0])
}

// shell is an image configuration that runs a script.
func shell(script string) v1.ImageConfig {
	return v1.ImageConfig{Entrypoint: []string{"/bin/sh", "-c", script}}
}

// ended waits until a container of a Pod has ended well and returns its log.
func (s *space) ended(pod, container string) string {
	s.T.Helper()
	s.container(pod, container, "has ended", func(c corev1.ContainerStatus) bool { return c.State.Terminated != nil })
	log := s.Kubectl("logs", pod, "-c", container)
	got := s.container(pod, container, "has ended", func(c corev1.ContainerStatus) bool { return c.State.Terminated != nil })
	if got.State.Terminated.ExitCode != 0 {
		s.T.Errorf("container %s ended with %d:\n%s", container, got.State.Terminated.ExitCode, log)
	}
	return strings.TrimSpace(log)
}

// container waits until a container of a Pod is as wanted.
func (s *space) container(pod, name, what string, want func(corev1.ContainerStatus) bool) (got corev1.ContainerStatus) {
	s.T.Helper()
	s.Pod(pod, name+" "+what, func(p *corev1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if c.Name == name && want(c) {
				got = c
				return true
			}
		}
		return false
	})
	return got
}

// refused waits until the kubelet says, in an event of the container, why its image cannot be had.
func (s *space) refused(pod, container string, words ...string) {
	s.T.Helper()
	s.Until("an event of container "+container+" says "+strings.Join(words, ", "), func() (bool, error) {
		events, err := s.Client.CoreV1().Events(s.Name).List(s.Ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return false, err
		}
		var said []string
		for _, e := range events.Items {
			if e.InvolvedObject.FieldPath != "spec.containers{"+container+"}" {
				continue
			}
			said = append(said, e.Reason+": "+e.Message)
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.Message, w) }) {
				return true, nil
			}
		}
		return false, fmt.Errorf("they say %q", said)
	})
}

// requests counts what a user has asked the registry for.
func (s *space) requests(user, method, path string) (n int) {
	for _, r := range registry.Requests() {
		if r == user+" "+method+" "+path {
			n++
		}
	}
	return n
}

const oneShot = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{name: %s}]
  containers:
`

// containers are those of a Pod: each with its name, its image and more settings.
func containers(all ...[3]string) string {
	var out strings.Builder
	for _, c := range all {
		fmt.Fprintf(&out, "  - {name: %s, image: %q%s}\n", c[0], c[1], strings.TrimSuffix(", "+c[2], ", "))
	}
	return out.String()
}

// TestRegistry pulls by the operator's file: a mirror with another name for things, the operator's password, the Pod's.
func TestRegistry(t *testing.T) {
	needRegistry(t)
	s := newSpace(t, 6*time.Minute)
	s.push("hub/tiny", shell("echo from the mirror"))
	sum := s.push("app/tiny", shell("echo by digest"))
	s.push("open/tiny", shell("echo for everybody"))
	registry.Open("open/tiny")
	registry.Open("open/foreign")
	if _, err := registry.PushIndex("app/both", "1", s.image("arm64", shell("echo arm64")), s.image("amd64", shell("echo amd64"))); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.PushIndex("open/foreign", "1", s.image("arm64", shell("echo arm64")), s.image("s390x", shell("echo s390x"))); err != nil {
		t.Fatal(err)
	}
	s.Kubectl("create", "secret", "docker-registry", "right", "--docker-server="+privateHost, "--docker-username=pod", "--docker-password=of-the-secret")
	s.Kubectl("create", "secret", "docker-registry", "wrong", "--docker-server="+privateHost, "--docker-username=pod", "--docker-password=mistaken")

	s.Apply(fmt.Sprintf(oneShot, "good", "right") + containers(
		[3]string{"mirror", "tiny:1"},
		[3]string{"digest", privateHost + "/app/tiny@" + sum},
		[3]string{"both", privateHost + "/app/both:1"},
	) + "---" + fmt.Sprintf(oneShot, "bad", "wrong") + containers(
		[3]string{"password", privateHost + "/app/both:1", "imagePullPolicy: Always"},
		[3]string{"foreign", privateHost + "/open/foreign:1"},
		[3]string{"missing", privateHost + "/open/tiny:2"},
		[3]string{"never", privateHost + "/open/tiny:1", "imagePullPolicy: Never"},
	))
	for container, want := range map[string]string{"mirror": "from the mirror", "digest": "by digest", "both": "amd64"} {
		if got := s.ended("good", container); got != want {
			t.Errorf("container %s says %q, want %q", container, got, want)
		}
	}
	if s.requests("operator", "GET", "/v2/hub/tiny/manifests/1") == 0 && s.requests("operator", "HEAD", "/v2/hub/tiny/manifests/1") == 0 {
		t.Errorf("the mirror was not asked with the operator's password: %q", registry.Requests())
	}
	if s.requests("pod", "HEAD", "/v2/app/tiny/manifests/"+sum) == 0 {
		t.Errorf("the registry was not asked with the Pod's password: %q", registry.Requests())
	}
	s.refused("bad", "password", "app/both", "401 Unauthorized")
	s.refused("bad", "foreign", "open/foreign", "no match for platform")
	s.refused("bad", "missing", "open/tiny:2", "not found")
	s.refused("bad", "never", "not present", "Never")
	s.pullPolicies()
}

// pullPolicies starts an image that is there, and newer in the registry, in the three ways.
func (s *space) pullPolicies() {
	s.T.Helper()
	asked := func() int { return s.requests("operator", "HEAD", "/v2/hub/tiny/manifests/1") }
	s.push("hub/tiny", shell("echo anew"))
	before := asked()
	s.Apply(fmt.Sprintf(oneShot, "present", "none") + containers(
		[3]string{"never", "tiny:1", "imagePullPolicy: Never"},
		[3]string{"once", "tiny:1", "imagePullPolicy: IfNotPresent"},
		[3]string{"always", "tiny:1", "imagePullPolicy: Always"},
	))
	for container, want := range map[string]string{"never": "from the mirror", "once": "from the mirror", "always": "anew"} {
		if got := s.ended("present", container); got != want {
			s.T.Errorf("container %s says %q, want %q", container, got, want)
		}
	}
	if got := asked() - before; got != 1 {
		s.T.Errorf("the registry was asked %d times, want once, for the container that always pulls", got)
	}
}

// TestRegistriesFileIsChecked: a wrong file keeps the server from starting, and check says where it is wrong.
func TestRegistriesFileIsChecked(t *testing.T) {
	h := newHost(t, "")
	text := "configs:\n  a.example:\n    auth: {usrname: me}\n"
	if _, err := h.Exec(context.Background(), "sh", "-c", "mkdir -p /etc/nodeless && printf '"+strings.ReplaceAll(text, "\n", `\n`)+"' > /etc/nodeless/registries.yaml"); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, h, []string{"/etc/nodeless/registries.yaml:3", "usrname", `did you mean "username"`}, serverArgs(h)...)
	out, err := h.Nodeless(context.Background(), "check", "--accel=tcg")
	if err == nil || !strings.Contains(out, "registries.yaml:3") || !strings.Contains(out, "username") {
		t.Errorf("check: %v\n%s", err, out)
	}
}
