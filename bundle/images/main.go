// Command images builds the container images that nodeless carries: pause, hello and inference, from the sources beside it and
// Debian's busybox-static; the model of inference it has trained. Usage: go run ./bundle/images -out DIR
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/pkg/ociimage"
)

const (
	module = "github.com/nodeless/nodeless/bundle/images/"
	corpus = "bundle/images/inference/corpus" // from the root of the repository
)

func main() {
	out := flag.String("out", "", "folder for the archives")
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox, Debian's package busybox-static")
	flag.Parse()
	if err := build(*out, *busybox); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func build(out, busybox string) error {
	if out == "" {
		return fmt.Errorf("no -out folder")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	pause, err := compile("pause")
	if err != nil {
		return err
	}
	err = write(filepath.Join(out, "pause.tar"), ociimage.Image{
		Name:   "docker.io/nodeless/pause:1",
		Config: v1.ImageConfig{Entrypoint: []string{"/pause"}},
		Layers: [][]ociimage.File{{{Path: "/pause", Mode: 0o755, Data: pause}}},
	})
	if err != nil {
		return err
	}
	hello, err := compile("hello")
	if err != nil {
		return err
	}
	tools, err := toolbox(busybox)
	if err != nil {
		return err
	}
	err = write(filepath.Join(out, "hello.tar"), ociimage.Image{
		Name: "docker.io/nodeless/hello:1",
		Config: v1.ImageConfig{
			Entrypoint: []string{"/hello"}, WorkingDir: "/", Env: []string{"PATH=/bin:/sbin"},
			ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		},
		Layers: [][]ociimage.File{tools, {{Path: "/hello", Mode: 0o755, Data: hello}}},
	})
	if err != nil {
		return err
	}
	inference, model, err := trained()
	if err != nil {
		return err
	}
	return write(filepath.Join(out, "inference.tar"), ociimage.Image{
		Name: "docker.io/nodeless/inference:1",
		Config: v1.ImageConfig{
			Entrypoint: []string{"/inference"}, WorkingDir: "/", User: "65534:65534",
			ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		},
		Layers: [][]ociimage.File{{
			{Path: "/inference", Mode: 0o755, Data: inference}, {Path: "/model.json", Mode: 0o644, Data: model},
		}},
	})
}

// trained is the program of the image inference, and the model that it makes of its corpus: the same for the same sources.
func trained() (program, model []byte, err error) {
	if program, err = compile("inference"); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "nodeless-images-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	exe, file := filepath.Join(dir, "inference"), filepath.Join(dir, "model.json")
	if err := os.WriteFile(exe, program, 0o700); err != nil {
		return nil, nil, err
	}
	if msg, err := exec.Command(exe, "train", "-corpus", corpus, "-out", file).CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("train the model: %w\n%s", err, msg)
	}
	model, err = os.ReadFile(file)
	return program, model, err
}

// compile makes one of the commands beside this one, static.
func compile(name string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "nodeless-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", file, module+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s: %w\n%s", name, err, msg)
	}
	return os.ReadFile(file)
}

// toolbox is busybox with a link for each of its applets, and what programs expect in /etc.
func toolbox(busybox string) ([]ociimage.File, error) {
	data, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w (Debian's package is busybox-static)", err)
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	files := []ociimage.File{
		{Path: "/bin/busybox", Mode: 0o755, Data: data},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\ncrew:x:4242:nobody\n")},
		{Path: "/root", Mode: fs.ModeDir | 0o700},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			files = append(files, ociimage.File{Path: "/bin/" + applet, Mode: fs.ModeSymlink | 0o777, Link: "busybox"})
		}
	}
	return files, nil
}

func write(path string, img ociimage.Image) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := ociimage.Write(f, img); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
