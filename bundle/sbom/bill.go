package main

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/bundle"
)

// release is what the bill is of.
type release struct {
	version, commit string
	time            time.Time
	name, hash      string // of the file that ships
	debian          string // the release whose packages are in it
}

// The fields of CycloneDX that are used, in the order of its specification.
type (
	bill struct {
		Format       string       `json:"bomFormat"`
		SpecVersion  string       `json:"specVersion"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licences   []licence  `json:"licenses,omitempty"`
		PURL       string     `json:"purl,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	licence struct {
		License licenceName `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn"`
	}
)

// licenceName has an ID where the name is one of SPDX's list, and a name elsewhere.
type licenceName struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// root is the reference of what ships.
const root = "nodeless"

func describe(r release, parts []bundle.Part, programs []program) bill {
	b := bill{Format: "CycloneDX", SpecVersion: "1.5", Version: 1, Metadata: metadata{
		Timestamp: r.time.Format(time.RFC3339),
		Component: component{
			Type: "application", Ref: root, Name: r.name, Version: r.version, Hashes: sha256(r.hash), Licences: licences("Apache-2.0"),
			PURL: purl("generic", root, r.version), Properties: []property{{"commit", r.commit}},
		},
	}}
	top := dependency{Ref: root}
	libraries := map[string]string{} // reference by name and version
	for _, p := range parts {
		if p.Origin == bundle.OriginOwn {
			continue
		}
		c := library(p, r.debian)
		if libraries[p.Name+"@"+p.Version] != "" {
			continue
		}
		libraries[p.Name+"@"+p.Version] = c.Ref
		b.Components = append(b.Components, c)
		if p.Origin == bundle.OriginDebian {
			top.On = append(top.On, c.Ref)
		}
	}
	var graph []dependency
	for _, p := range programs {
		b.Components = append(b.Components, component{Type: "application", Ref: "program:" + p.name, Name: p.name, Version: r.version, Hashes: sha256(p.hash)})
		top.On = append(top.On, "program:"+p.name)
		graph = append(graph, dependency{Ref: "program:" + p.name, On: references(p.modules, libraries)})
	}
	slices.SortFunc(b.Components, func(x, y component) int { return cmp.Compare(x.Ref, y.Ref) })
	slices.Sort(top.On)
	b.Dependencies = append([]dependency{top}, graph...)
	return b
}

// library is a part of others.
func library(p bundle.Part, debian string) component {
	c := component{Type: "library", Name: p.Name, Version: p.Version, Licences: licences(p.Licence)}
	switch p.Origin {
	case bundle.OriginDebian:
		c.PURL = purl("deb/debian", p.Name, p.Version) + "?distro=" + debian
	case bundle.OriginGo:
		c.PURL = purl("golang", "stdlib", strings.TrimPrefix(p.Version, "go"))
	default:
		c.PURL = purl("golang", p.Name, p.Version)
	}
	c.Ref = c.PURL
	return c
}

func references(modules []string, libraries map[string]string) []string {
	list := []string{} // an empty list, not null
	for _, m := range modules {
		if ref := libraries[m]; ref != "" {
			list = append(list, ref)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// listed are the licences of the bundle's manifest that are written as in SPDX's list.
var listed = regexp.MustCompile(`^(Apache-2\.0|MPL-2\.0|MIT|BSD-[234]-Clause|ISC|Unlicense|CC0-1\.0|Zlib)$`)

func licences(name string) []licence {
	switch {
	case name == "":
		return nil
	case listed.MatchString(name):
		return []licence{{licenceName{ID: name}}}
	}
	return []licence{{licenceName{Name: name}}}
}

func sha256(hex string) []hash { return []hash{{"SHA-256", hex}} }

// purl writes a package URL. Names of Go modules are lower case in it, and what is not plain is escaped.
func purl(kind, name, version string) string {
	if kind == "golang" {
		name = strings.ToLower(name)
	}
	return "pkg:" + kind + "/" + escape(name, "/") + "@" + escape(version, "")
}

// escape keeps letters, digits, ".-_~:" and what else is named. A colon stays as it is in a package URL.
func escape(s, keep string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-_~:"+keep, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}
