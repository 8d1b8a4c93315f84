package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// parts are what images are made of.
type parts struct{ bin, base, sources string }

// image is one of upstream's by its names, and what stands for it here.
type image struct {
	names  []string
	config v1.ImageConfig
	layers []layer // the lowest first
}

const e2e = "registry.k8s.io/e2e-test-images/"

func writeImages(p parts, out string) error {
	all, err := p.images()
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(writeArchive(f, all), f.Close())
}

// file reads what becomes a file of an image.
func file(path, name string, mode int64) (testregistry.Entry, error) {
	raw, err := os.ReadFile(path)
	return testregistry.File(name, mode, string(raw)), err
}

// images are those that conformance tests ask for.
func (p parts) images() ([]image, error) {
	base := layer{path: p.base}
	agnhost, err := p.agnhost()
	if err != nil {
		return nil, err
	}
	busybox, err := p.busybox()
	if err != nil {
		return nil, err
	}
	var errs []error
	one := func(program, name string, mode int64) layer {
		e, err := file(filepath.Join(p.bin, program), name, mode)
		errs = append(errs, err)
		return layer{tar: testregistry.Tar(e)}
	}
	pet := func(name, osRelease string) image {
		entries, err := p.html(name)
		errs = append(errs, err)
		if osRelease != "" {
			entries = append(entries, testregistry.File("etc/os-release", 0o644, osRelease))
		}
		return image{[]string{e2e + name + ":1.8"}, v1.ImageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}, []layer{base, agnhost, {tar: testregistry.Tar(entries...)}}}
	}
	nginx := layer{tar: testregistry.Tar(testregistry.File("etc/nginx/nginx.conf", 0o644, nginxConf), testregistry.File("usr/share/nginx/html/index.html", 0o644, "<h1>Welcome to nginx!</h1>\n"))}
	all := []image{
		{[]string{e2e + "agnhost:2.66.1", e2e + "agnhost:2.55"}, v1.ImageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}, []layer{base, agnhost}},
		{[]string{e2e + "busybox:1.37.0-2"}, v1.ImageConfig{Cmd: []string{"sh"}}, []layer{busybox}},
		{[]string{"registry.k8s.io/pause:3.10.2"}, v1.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}, []layer{one("pause", "pause", 0o755)}},
		{[]string{e2e + "nginx:1.27.0-2", e2e + "nginx:1.28.0-2"}, v1.ImageConfig{Cmd: []string{"nginx"}}, []layer{base, nginx}},
		pet("nautilus", ""), pet("kitten", "NAME=\"Alpine Linux\"\nID=alpine\n"),
		{[]string{e2e + "nonroot:1.5"}, v1.ImageConfig{User: "1234", Cmd: []string{"/bin/sh"}}, []layer{base}},
		{[]string{e2e + "glibc-dns-testing:2.1.1"}, v1.ImageConfig{Cmd: []string{"/bin/sh"}}, []layer{base}},
		{[]string{e2e + "nonewprivs:1.4"}, v1.ImageConfig{Cmd: []string{"nnp"}}, []layer{busybox, one("nnp", "usr/local/bin/nnp", 0o6755)}},
		{[]string{e2e + "sample-apiserver:1.29.2"}, v1.ImageConfig{Entrypoint: []string{"/sample-apiserver"}}, []layer{busybox, one("sample-apiserver", "sample-apiserver", 0o755)}},
		{[]string{"registry.k8s.io/etcd:3.7.0-0"}, v1.ImageConfig{}, []layer{busybox, one("etcd", "usr/local/bin/etcd", 0o755)}},
	}
	return all, errors.Join(errs...)
}

const nginxConf = `daemon off;
error_log stderr;
events {}
http {
	access_log off;
	server { listen 80; root /usr/share/nginx/html; }
}
`

// agnhost is what upstream's image has on its base.
func (p parts) agnhost() (layer, error) {
	program, err := file(filepath.Join(p.bin, "agnhost"), "agnhost", 0o755)
	if err != nil {
		return layer{}, err
	}
	entries := []testregistry.Entry{program, testregistry.Symlink("agnhost-2", "agnhost"), testregistry.Dir("uploads", 0o777)}
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		e, err := file(filepath.Join(p.sources, "agnhost/porter", name), name, 0o644)
		if err != nil {
			return layer{}, err
		}
		entries = append(entries, e)
	}
	for name, more := range map[string]string{
		"etc/passwd": "user-defined-in-image:x:1000:1000::/:/bin/sh\n",
		"etc/group":  "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
	} {
		have, err := inTar(p.base, name)
		if err != nil {
			return layer{}, err
		}
		entries = append(entries, testregistry.File(name, 0o644, have+more))
	}
	return layer{tar: testregistry.Tar(entries...)}, nil
}

// busybox is Debian's with a link for each applet. Its shell is chosen by testdata/sh.c.
func (p parts) busybox() (layer, error) {
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return layer{}, fmt.Errorf("list applets of busybox (Debian's package is busybox-static): %w", err)
	}
	entries := []testregistry.Entry{
		testregistry.File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		testregistry.File("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n"),
		testregistry.Dir("root", 0o700), testregistry.Dir("tmp", 0o1777), testregistry.Dir("home", 0o755), testregistry.Dir("var", 0o755), testregistry.Dir("usr", 0o755),
	}
	for name, path := range map[string]string{"bin/busybox": "/bin/busybox", "bin/bash": "/bin/bash-static", "bin/sh": filepath.Join(p.bin, "sh")} {
		e, err := file(path, name, 0o755)
		if err != nil {
			return layer{}, err
		}
		entries = append(entries, e)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" && applet != "sh" && applet != "bash" {
			entries = append(entries, testregistry.Symlink("bin/"+applet, "busybox"))
		}
	}
	return layer{tar: testregistry.Tar(entries...)}, nil
}

// html are the files that a pet serves.
func (p parts) html(name string) (entries []testregistry.Entry, err error) {
	paths, err := filepath.Glob(filepath.Join(p.sources, name, "html/*"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("find what %s serves: %d files, %w", name, len(paths), err)
	}
	for _, path := range paths {
		e, err := file(path, filepath.Base(path), 0o644)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// sources is where upstream's images are described, beside its list of tests.
func (o options) sources() string {
	return filepath.Join(filepath.Dir(o.list), "../../images")
}

// pushPulled puts into a registry the two images that tests insist on pulling, though the host has them.
func (p parts) pushPulled(r *testregistry.Registry) error {
	entries, err := p.html("kitten")
	if err != nil {
		return err
	}
	entries = append(entries, testregistry.Dir("etc", 0o755), testregistry.File("etc/os-release", 0o644, "NAME=\"Alpine Linux\"\nID=alpine\n"))
	if _, err := r.Push("e2e-test-images/kitten", "1.8", testregistry.Image{Layers: []testregistry.Layer{{Tar: testregistry.Tar(entries...)}}}); err != nil {
		return err
	}
	base, err := os.ReadFile(p.base)
	if err != nil {
		return err
	}
	agnhost, err := p.agnhost()
	if err != nil {
		return err
	}
	_, err = r.Push("e2e-test-images/agnhost", "2.66.1", testregistry.Image{
		Config: v1.ImageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}, Layers: []testregistry.Layer{{Tar: base}, {Tar: agnhost.tar}},
	})
	return err
}

// serve has a registry answer inside a host, and tells the host to ask there.
func serve(h *testbed.Host, p parts) (*testregistry.Registry, error) {
	r, err := testregistry.New(testbed.NodeIP)
	if err != nil {
		return nil, err
	}
	if err := p.pushPulled(r); err != nil {
		return nil, err
	}
	space, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return nil, err
	}
	defer space.Close()
	var l net.Listener
	if err := space.Do(func(ns.NetNS) (err error) {
		l, err = net.Listen("tcp", testbed.NodeIP+":5000")
		return err
	}); err != nil {
		return nil, err
	}
	r.Serve(l, true)
	conf := "mirrors:\n  registry.k8s.io: {endpoint: [\"http://" + testbed.NodeIP + ":5000\"]}\n"
	return r, errors.Join(os.MkdirAll(h.Path("/etc/nodeless"), 0o755), os.WriteFile(h.Path("/etc/nodeless/registries.yaml"), []byte(conf), 0o600))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
