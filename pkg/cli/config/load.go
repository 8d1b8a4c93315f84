package config

import (
	"errors"
	"fmt"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Sources is where settings come from besides the configuration file.
type Sources struct {
	Flags map[string][]string              // what the command line says, and only that
	Env   func(name string) (string, bool) // os.LookupEnv; nil for none
}

// setting is the value of one option and where it was found, for error texts.
type setting struct {
	values []string
	origin string
}

// Load merges the sources (flag before environment before file before default) and checks the result.
// The error joins every fault that was found, not only the first.
func Load(src Sources) (Config, error) {
	cfg, err := merge(src)
	return cfg, errors.Join(err, cfg.Validate())
}

// LoadPaths is Load for commands that only look at where things are: faults of other settings do not matter to them.
func LoadPaths(src Sources) (Paths, error) {
	cfg, err := merge(src)
	if bad := cfg.Paths.faults(); len(bad) > 0 {
		return cfg.Paths, errors.Join(err, errors.Join(bad...))
	}
	return cfg.Paths, nil
}

func merge(src Sources) (Config, error) {
	var cfg Config
	var errs []error
	known := Options()

	fromFile, err := readAll(configFile(src))
	errs = append(errs, err)
	for _, o := range known {
		s, ok := find(src, o, fromFile)
		if !ok {
			continue
		}
		if err := store(o.field(&cfg), o.Kind, s.values); err != nil {
			errs = append(errs, &hint.Error{Op: "read " + s.origin, Err: err, Do: o.Name + ": " + plain(o.Usage)})
			_ = store(o.field(&cfg), o.Kind, []string{o.Default}) // so that Validate reports only what the operator wrote
		}
	}
	return cfg, errors.Join(errs...)
}

// find gives the strongest value of an option; ok is false when nobody sets it and it has no default.
func find(src Sources, o Option, fromFile map[string]setting) (setting, bool) {
	if given, ok := src.Flags[o.Name]; ok {
		values := given
		if o.Kind == List {
			values = nil
			for _, v := range given {
				values = append(values, split(o.Kind, v)...)
			}
		}
		return setting{values: values, origin: "flag --" + o.Name}, true
	}
	if src.Env != nil {
		if text, ok := src.Env(o.Env()); ok && text != "" {
			return setting{values: split(o.Kind, text), origin: "environment " + o.Env()}, true
		}
	}
	if s, ok := fromFile[o.Name]; ok {
		return s, true
	}
	if o.Default == "" {
		return setting{}, false
	}
	return setting{values: split(o.Kind, o.Default), origin: "default of " + o.Name}, true
}

// configFile tells which file to read and whether somebody asked for it (then it must exist).
func configFile(src Sources) (path string, asked bool) {
	o := Pick("config")[0]
	s, _ := find(src, o, nil)
	path = s.values[0]
	return path, path != o.Default
}

// plain removes the back quotes that mark a flag's placeholder.
func plain(usage string) string {
	out := make([]rune, 0, len(usage))
	for _, r := range usage {
		if r != '`' {
			out = append(out, r)
		}
	}
	return string(out)
}

// names lists the keys that a configuration file may contain.
func names() []string {
	var out []string
	for _, o := range Options() {
		if o.Name != "config" {
			out = append(out, o.Name)
		}
	}
	return out
}

// lookup finds an option by its key.
func lookup(name string) (Option, error) {
	for _, o := range Options() {
		if o.Name == name && name != "config" {
			return o, nil
		}
	}
	return Option{}, fmt.Errorf("unknown key %q", name)
}

// Defaults is the configuration when nobody sets anything.
func Defaults() Config {
	var cfg Config
	for _, o := range Options() {
		if o.Default != "" {
			_ = store(o.field(&cfg), o.Kind, split(o.Kind, o.Default)) // TestDefaultsAreValid
		}
	}
	return cfg
}
