package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/hint"
)

// Bounds of a tag for the bill, as the cloud has them.
const (
	maxTags     = 50
	maxTagName  = 127 // characters
	maxTagValue = 255 // characters
)

// annotations reports on those of have that TKE Serverless knows or that look as if they were meant for it. At is the
// path of the annotations, in the kind of object they are on.
func (r *report) annotations(at *field.Path, have map[string]string, in Place) {
	var keys []string
	for key := range have {
		if concerns(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys) // an object has the same findings each time
	for _, key := range keys {
		if k := lookup(key); k != nil {
			r.known(at.Key(key), k, have[key], in)
		} else if r.guesses++; r.guesses > maxGuesses || !r.roomToWarn() {
			if ofEKS(key) {
				r.moreWarnings++
			}
		} else if text := unknown(key); text != "" {
			r.warn(at.Key(shown(key)), text)
		}
	}
}

// known reports on a key of the table.
func (r *report) known(at *field.Path, k *Key, value string, in Place) {
	switch {
	case k.State == Refused:
		r.deny(field.Forbidden(at, k.Here))
		return
	case k.State == NotYet && value != k.Anyway:
		r.warn(at, "not honoured yet: "+plain(k.Here))
	case k.On == OnDaemonSet && in == OnPod:
		r.warn(at, "has an effect in the template of a DaemonSet only")
		return
	}
	if err := form(k.Key, value); err != nil {
		r.deny(field.Invalid(at, cut(value), err.Error()))
	}
}

// form says what is wrong with the value of an honoured key that does not size the Pod.
func form(key, value string) error {
	switch key {
	case api.SpotPod, dsInjection:
		if value != "true" && value != "false" {
			return errors.New(`want "true" or "false"`)
		}
	case api.ResourceTag:
		return tags(value)
	case dsInjectByLabel:
		_, _, err := label(value)
		return err
	}
	return nil
}

// tags says what is wrong with a set of names and values for the bill. It reads no further than the first fault.
func tags(value string) error {
	if !utf8.ValidString(value) {
		return errors.New("not UTF-8")
	}
	const want = `want a JSON object of strings, such as {"team":"web"}`
	dec := json.NewDecoder(strings.NewReader(value))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New(want)
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return errors.New(want)
		}
		t, err = dec.Token()
		if err != nil {
			return errors.New(want)
		}
		text, ok := t.(string)
		switch {
		case !ok:
			return fmt.Errorf("the value of %s is not a string; %s", quote(name), want)
		case seen[name]:
			return fmt.Errorf("%s stands there twice", quote(name))
		case name == "" || utf8.RuneCountInString(name) > maxTagName:
			return fmt.Errorf("name %s: want 1 to %d characters", quote(name), maxTagName)
		case utf8.RuneCountInString(text) > maxTagValue:
			return fmt.Errorf("value of %s: want %d characters at most", quote(name), maxTagValue)
		}
		if seen[name] = true; len(seen) > maxTags {
			return fmt.Errorf("want %d names at most", maxTags)
		}
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('}') {
		return errors.New(want)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New(want)
	}
	return nil
}

// concerns tells quickly whether a key may be one of the cloud's or was meant to be one.
func concerns(key string) bool {
	if len(key) > maxKey {
		return ofEKS(key) // no valid key, the apiserver refuses it
	}
	domain, _, prefixed := strings.Cut(key, "/")
	if !prefixed {
		return byName(key, false) != nil || strings.HasPrefix(strings.ToLower(key), "eks.")
	}
	domain = strings.ToLower(domain)
	return strings.Contains(domain, "tencent") || strings.HasPrefix(domain, "eks.")
}

// ofEKS tells whether a key has one of the prefixes that are for Pods only.
func ofEKS(key string) bool {
	return strings.HasPrefix(key, api.EKS) || strings.HasPrefix(key, internalEKS)
}

// unknown is what to say of a key that is not in the table, or "" if it is somebody else's.
func unknown(key string) string {
	near, ours := meant(key)
	switch {
	case !ours:
		return ""
	case near != "":
		return "no such key, it has no effect; did you mean " + near + "?"
	}
	return "no such key, it has no effect; docs/annotations.md lists those that have one"
}

// meant finds the key that its author most likely meant, or "", and says whether it was meant for the cloud at all: other
// prefixes of the cloud are for other products.
func meant(key string) (near string, ours bool) {
	if len(key) > maxKey {
		return "", true
	}
	domain, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		if k := byName(key, false); k != nil {
			return k.Key, true
		}
		var all []string
		for i := range table {
			all = append(all, table[i].Key)
		}
		near = hint.Nearest(spelled(key), all)
		return near, near != ""
	}
	domain = strings.ToLower(domain)
	alike := len(domain) <= maxQuoted && hint.Nearest(domain, []string{strings.TrimSuffix(api.EKS, "/"), strings.TrimSuffix(internalEKS, "/")}) != ""
	ours = (alike || strings.Contains(domain, "tencent")) && (strings.HasPrefix(domain, "eks.") || strings.HasPrefix(domain, "internal.eks."))
	if k := byName(name, ours); k != nil {
		return k.Key, ours || alike
	}
	if !ours {
		return "", false
	}
	var names []string
	for i := range table {
		names = append(names, table[i].name())
	}
	if k := byName(hint.Nearest(spelled(name), names), false); k != nil {
		return k.Key, true
	}
	return "", true
}

// plain takes out the marks that a table in Markdown has and a warning has not.
func plain(s string) string { return strings.ReplaceAll(s, "`", "") }
