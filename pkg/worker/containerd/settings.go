package containerd

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"github.com/nodeless/nodeless/pkg/contract"
)

var (
	//go:embed containerd.toml.tmpl
	containerdTemplate string
	//go:embed kata.toml.tmpl
	kataTemplate string
)

// ContainerdTOML is containerd's configuration for c.
func ContainerdTOML(c Config) ([]byte, error) {
	return render("containerd.toml", containerdTemplate, struct {
		Config
		PauseImage, Handler, RuncHandler, Snapshotter, Differ string
		ContainerAnnotations, PodAnnotations, ResourceTag     string
	}{c, PauseImage, Handler, RuncHandler, snapshotter, differ, contract.ContainerAnnotations, contract.PodAnnotations, contract.ResourceTag})
}

// KataTOML is Kata's configuration for c.
func KataTOML(c Config) ([]byte, error) {
	return render("kata.toml", kataTemplate, c)
}

func render(name, text string, data any) ([]byte, error) {
	t, err := template.New(name).Funcs(template.FuncMap{"q": quote, "list": func(all ...string) []string { return all }}).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template of %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// quote writes a TOML basic string; what JSON escapes, TOML reads the same way.
func quote(s string) (string, error) {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return "", fmt.Errorf("quote %q: %w", s, err)
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}
