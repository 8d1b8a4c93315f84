package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/nodeless/nodeless/pkg/hint"
)

// readAll reads the file and its drop-in folder <file>.d/*.yaml, in order of name; later files win, and a key
// that ends in "+" adds to the list of the earlier ones.
func readAll(path string, asked bool) (map[string]setting, error) {
	merged := make(map[string]setting)
	var errs []error
	switch data, err := os.ReadFile(path); {
	case err == nil:
		errs = append(errs, parse(path, data, merged))
	case errors.Is(err, fs.ErrNotExist) && !asked:
	default:
		errs = append(errs, &hint.Error{Op: "read config file", On: path, Err: cause(err),
			Do: "give a file that can be read with --config"})
	}
	dropIns, err := filepath.Glob(filepath.Join(path+".d", "*.yaml"))
	errs = append(errs, err)
	for _, p := range dropIns {
		data, err := os.ReadFile(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("read config file: %w", err))
			continue
		}
		errs = append(errs, parse(p, data, merged))
	}
	return merged, errors.Join(errs...)
}

// cause takes the path out of an error that names it anyway.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parse adds the settings of one file to merged, and returns every fault of the file.
func parse(path string, data []byte, merged map[string]setting) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return &hint.Error{Op: "read config file", On: path, Err: err, Do: "write one `key: value` a line"}
	}
	if len(doc.Content) == 0 {
		return nil // empty, or comments only
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return &hint.Error{Op: "read config file", On: at(path, root), Err: errors.New("not a list of keys"), Do: "write one `key: value` a line"}
	}
	var errs []error
	seen := make(map[string]int)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if line, twice := seen[key.Value]; twice {
			errs = append(errs, &hint.Error{Op: "read config file", On: at(path, key),
				Err: fmt.Errorf("key %q stands on line %d already", key.Value, line), Do: "remove one of the two"})
			continue
		}
		seen[key.Value] = key.Line
		errs = append(errs, accept(path, key, value, merged))
	}
	return errors.Join(errs...)
}

// accept checks one key and its value's shape and records it.
func accept(path string, key, value *yaml.Node, merged map[string]setting) error {
	name, add := strings.CutSuffix(key.Value, "+")
	o, err := lookup(name)
	if err != nil {
		do := "valid keys are the flags of `nodeless server --help`"
		if near := hint.Nearest(name, names()); near != "" {
			do = fmt.Sprintf("did you mean %q?", near)
		}
		return &hint.Error{Op: "read config file", On: at(path, key), Err: err, Do: do}
	}
	values, err := flatten(o, value)
	if err == nil { // a trial, so that the fault is reported with its line
		var scratch Config
		err = store(o.field(&scratch), o.Kind, values)
	}
	if err != nil {
		return &hint.Error{Op: "read config file", On: at(path, value), Err: fmt.Errorf("%s: %w", name, err), Do: name + ": " + plain(o.Usage)}
	}
	if add {
		if o.Kind == Scalar {
			return &hint.Error{Op: "read config file", On: at(path, key), Err: fmt.Errorf("%s takes one value, nothing can be added to it", name),
				Do: fmt.Sprintf("write %q without the plus sign", name)}
		}
		values = append(append([]string(nil), merged[name].values...), values...)
	}
	merged[name] = setting{values: values, origin: at(path, value) + ": " + name}
	return nil
}

// flatten gives the texts of a value: one for a scalar, several for a sequence.
func flatten(o Option, value *yaml.Node) ([]string, error) {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		return nil, errors.New("has no value")
	case value.Kind == yaml.ScalarNode && o.Kind == Args:
		return []string{value.Value}, nil
	case value.Kind == yaml.ScalarNode:
		return split(o.Kind, value.Value), nil
	case value.Kind == yaml.SequenceNode && o.Kind == Scalar:
		return nil, errors.New("takes one value, not a list")
	case value.Kind == yaml.SequenceNode:
		var out []string
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, errors.New("takes a list of plain values")
			}
			out = append(out, item.Value)
		}
		return out, nil
	}
	return nil, errors.New("takes a plain value, not a table")
}

func at(path string, n *yaml.Node) string { return fmt.Sprintf("%s:%d", path, n.Line) }
