package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/datadir"
)

// foreign are the commands whose own flags are not ours to read.
var foreign = []string{"kubectl", "ctr", "crictl"}

// dataDir finds the data folder before the main program parses anything, in the same order as it does: flag,
// environment, settings file, default.
func dataDir(args []string, getenv func(string) string, readFile func(string) ([]byte, error), root bool) (string, error) {
	own := ownArgs(args)
	if dir := flagValue(own, "data-dir", "d"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("NODELESS_DATA_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	settings := flagValue(own, "config", "c")
	if settings == "" {
		settings = getenv("NODELESS_CONFIG")
	}
	if settings == "" {
		settings = datadir.ConfigFile
	}
	// The last file that sets it counts. One that cannot be read is the main program's to report.
	more, err := filepath.Glob(settings + ".d/*.yaml")
	if err != nil {
		return "", fmt.Errorf("find settings files: %w", err)
	}
	fromFile := ""
	for _, file := range append([]string{settings}, more...) {
		if raw, err := readFile(file); err == nil {
			fromFile = cmp.Or(settingOf(raw, "data-dir"), fromFile)
		}
	}
	if fromFile != "" {
		return filepath.Abs(fromFile)
	}
	if root {
		return string(datadir.Default), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", fmt.Errorf("find a folder for the bundle: HOME is not set; name one with --data-dir")
	}
	return filepath.Join(home, ".nodeless"), nil
}

// ownArgs cuts off what belongs to another program: all that follows "--", or a command such as kubectl.
func ownArgs(args []string) []string {
	if len(args) == 0 || slices.Contains(foreign, filepath.Base(args[0])) {
		return nil
	}
	for i, arg := range args[1:] {
		if arg == "--" || slices.Contains(foreign, arg) {
			return args[1 : i+1]
		}
	}
	return args[1:]
}

// flagValue finds --name value, --name=value, -name value, -short value and so on; the last one counts.
func flagValue(args []string, name, short string) string {
	value := ""
	for i, arg := range args {
		flag, given, has := strings.Cut(arg, "=")
		switch {
		case flag != "--"+name && flag != "-"+name && flag != "-"+short:
		case has:
			value = given
		case i+1 < len(args):
			value = args[i+1]
		}
	}
	return value
}

// settingOf reads one plain top-level key of a YAML file; a YAML parser would double the launcher.
func settingOf(raw []byte, key string) string {
	for line := range strings.Lines(string(raw)) {
		value, ok := strings.CutPrefix(line, key+":")
		if !ok {
			continue
		}
		value, _, _ = strings.Cut(value, " #")
		return strings.Trim(strings.TrimSpace(value), `"'`)
	}
	return ""
}
