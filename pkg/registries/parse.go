package registries

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/nodeless/nodeless/pkg/hint"
)

// parser walks the file's YAML and gathers every fault it meets.
type parser struct {
	path string
	cfg  Config
	errs []error
}

func parse(path string, data []byte) (Config, error) {
	p := parser{path: path, cfg: Config{Mirrors: map[string]Mirror{}, Hosts: map[string]Host{}}}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return Config{}, &hint.Error{Op: "read registries file", On: path, Err: err, Do: "write YAML with the keys mirrors and configs"}
	}
	if len(doc.Content) == 0 {
		return Config{}, nil // empty, or comments only
	}
	p.keys(doc.Content[0], "the file", map[string]func(*yaml.Node){
		"mirrors": func(n *yaml.Node) { p.each(n, "mirrors", p.mirror) },
		"configs": func(n *yaml.Node) { p.each(n, "configs", p.host) },
	})
	return p.cfg, errors.Join(p.errs...)
}

// fault records what is wrong at a line and what to do about it.
func (p *parser) fault(n *yaml.Node, do, format string, args ...any) {
	p.errs = append(p.errs, &hint.Error{Op: "read registries file", On: fmt.Sprintf("%s:%d", p.path, n.Line), Err: fmt.Errorf(format, args...), Do: do})
}

// each calls fn for every pair of a mapping. No value at all is an empty mapping.
func (p *parser) each(n *yaml.Node, what string, fn func(key, value *yaml.Node)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fault(n, "write `key: value` lines below it", "%s: not a list of keys", what)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if line, twice := seen[key.Value]; twice {
			p.fault(key, "remove one of the two", "%s: %q stands on line %d already", what, key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		fn(key, n.Content[i+1])
	}
}

// keys reads a mapping whose keys are known.
func (p *parser) keys(n *yaml.Node, what string, known map[string]func(*yaml.Node)) {
	p.each(n, what, func(key, value *yaml.Node) {
		if read, ok := known[key.Value]; ok {
			read(value)
			return
		}
		names := slices.Sorted(maps.Keys(known))
		do := "valid keys are " + strings.Join(names, ", ")
		if near := hint.Nearest(key.Value, names); near != "" {
			do = fmt.Sprintf("did you mean %q?", near)
		}
		p.fault(key, do, "%s: unknown key %q", what, key.Value)
	})
}

// text reads a string.
func (p *parser) text(to *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
			p.fault(n, "write a text behind it, in quotes if it is unusual", "%s: has no plain value", what)
			return
		}
		*to = n.Value
	}
}

func (p *parser) mirror(key, value *yaml.Node) {
	what := "mirrors " + key.Value
	if key.Value != anyRegistry && !isHost(key.Value) {
		p.fault(key, "write the name that images begin with, such as docker.io or registry.example.com:5000, or * for all", "mirrors: %q is not the name of a registry", key.Value)
	}
	var m Mirror
	p.keys(value, what, map[string]func(*yaml.Node){
		"endpoint": func(n *yaml.Node) { m.Endpoints = p.endpoints(n, what) },
		"rewrite": func(n *yaml.Node) {
			p.each(n, what+" rewrite", func(pattern, replace *yaml.Node) { p.rewrite(&m, pattern, replace) })
		},
	})
	p.cfg.Mirrors[key.Value] = m
}

func (p *parser) endpoints(n *yaml.Node, what string) (all []url.URL) {
	if n.Kind != yaml.SequenceNode {
		p.fault(n, `write a list, such as ["https://mirror.example.com"]`, "%s: endpoint is not a list", what)
		return nil
	}
	for _, item := range n.Content {
		u, err := endpoint(item.Value)
		switch {
		case item.Kind != yaml.ScalarNode || err != nil:
			p.fault(item, "write a URL such as https://mirror.example.com:5000", "%s: endpoint %q is not the URL of a registry", what, withoutPassword(item.Value))
		case slices.Contains(all, u):
			p.fault(item, "remove one of the two", "%s: endpoint %q is there twice", what, item.Value)
		default:
			all = append(all, u)
		}
	}
	return all
}

// endpoint reads a mirror's address. Without a scheme it speaks TLS, unless it is one of this host.
func endpoint(text string) (url.URL, error) {
	if !strings.Contains(text, "://") {
		scheme := "https://"
		if host, _, _ := strings.Cut(text, "/"); isLocal(host) {
			scheme = "http://"
		}
		text = scheme + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return url.URL{}, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || !isHost(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return url.URL{}, errors.New("more or less than scheme, host and path")
	}
	path := strings.TrimSuffix(u.Path, "/")
	if path == "" {
		path = "/v2"
	}
	return url.URL{Scheme: u.Scheme, Host: apiHost(u.Host), Path: path}, nil
}

// withoutPassword hides what somebody has put in front of a host.
func withoutPassword(text string) string {
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "…" + text[at:]
	}
	return text
}

func (p *parser) rewrite(m *Mirror, pattern, replace *yaml.Node) {
	exp, err := regexp.Compile(pattern.Value)
	if err != nil {
		p.fault(pattern, "write a regular expression in Go's syntax, such as ^library/(.*)$", "rewrite %q: %w", pattern.Value, err)
		return
	}
	if replace.Kind != yaml.ScalarNode || replace.Value == "" {
		p.fault(replace, "write the new name, such as cache/$1", "rewrite %q: has no plain value", pattern.Value)
		return
	}
	for _, group := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(replace.Value, -1) {
		n, err := strconv.Atoi(group[1])
		if err != nil && exp.SubexpIndex(group[1]) < 0 || n > exp.NumSubexp() {
			p.fault(replace, "put round brackets around what is to be kept, and write ${1}x rather than $1x", "rewrite %q: there is no group %q in it", pattern.Value, group[1])
		}
	}
	m.Rewrites = append(m.Rewrites, Rewrite{Pattern: exp, Replace: replace.Value})
}

func (p *parser) host(key, value *yaml.Node) {
	what := "configs " + key.Value
	if key.Value != anyRegistry && !isHost(key.Value) {
		p.fault(key, "write host or host:port, without https:// and without a path", "configs: %q is not a host", key.Value)
	}
	var h Host
	p.keys(value, what, map[string]func(*yaml.Node){
		"auth": func(n *yaml.Node) {
			if key.Value == anyRegistry {
				p.fault(n, "name the host that the password is for", "%s: a password for everybody is a password for nobody", what)
			}
			h.Auth = p.auth(n, what+" auth")
		},
		"tls": func(n *yaml.Node) { h.TLS = p.tls(n, what+" tls") },
	})
	p.cfg.Hosts[key.Value] = h
}

func (p *parser) auth(n *yaml.Node, what string) (a Auth) {
	var basic string
	p.keys(n, what, map[string]func(*yaml.Node){
		"username": p.text(&a.Username, what+" username"), "password": p.text(&a.Password, what+" password"),
		"auth": p.text(&basic, what+" auth"), "token": p.text(&a.Token, what+" token"), "identity_token": p.text(&a.Token, what+" identity_token"),
	})
	ways := 0
	for _, given := range []bool{a.Username != "" || a.Password != "", basic != "", a.Token != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		p.fault(n, "keep one of username with password, auth, or token", "%s: says it in more than one way", what)
	case (a.Username == "") != (a.Password == ""):
		p.fault(n, "write both", "%s: username and password belong together", what)
	case basic != "":
		raw, err := base64.StdEncoding.DecodeString(basic)
		name, password, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok || name == "" {
			p.fault(n, "take it from the file that `docker login` writes, or use username and password", "%s: auth is not name:password in base64", what)
		}
		a.Username, a.Password = name, password
	}
	return a
}

func (p *parser) tls(n *yaml.Node, what string) (t TLS) {
	p.keys(n, what, map[string]func(*yaml.Node){
		"ca_file": p.text(&t.CA, what+" ca_file"), "cert_file": p.text(&t.Cert, what+" cert_file"), "key_file": p.text(&t.Key, what+" key_file"),
		"insecure_skip_verify": func(v *yaml.Node) {
			if v.Tag != "!!bool" || v.Decode(&t.SkipVerify) != nil {
				p.fault(v, "write true or false", "%s: insecure_skip_verify is %q", what, v.Value)
			}
		},
	})
	for _, file := range []string{t.CA, t.Cert, t.Key} {
		if file != "" && !filepath.IsAbs(file) {
			p.fault(n, "write the full path", "%s: %q is not an absolute path", what, file)
			return t
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		p.fault(n, "write both", "%s: cert_file and key_file belong together", what)
	} else if _, err := t.Config(); err != nil {
		p.fault(n, "give files in PEM form that can be read", "%s: %w", what, err)
	}
	return t
}
