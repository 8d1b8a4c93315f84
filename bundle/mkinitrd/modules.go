package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// packed ends the name of a module that Debian compresses, as it does since 6.12.
const packed = ".xz"

// moduleTree knows the modules of one kernel by name.
type moduleTree struct {
	files   map[string]string // name to .ko file
	builtin map[string]bool
}

// openModules reads the folder lib/modules/<release> of an unpacked kernel package. It has no modules.dep, which
// depmod would write on the target: dependencies are read from the modules themselves.
func openModules(dir string) (*moduleTree, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}}
	list, err := os.Open(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("open modules: %w", err)
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		t.builtin[moduleName(lines.Text())] = true
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(strings.TrimSuffix(path, packed), ".ko") {
			t.files[moduleName(path)] = path
		}
		return err
	})
	if err = errors.Join(lines.Err(), err); err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	return t, nil
}

// moduleName is how the kernel calls the module in file path.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), packed), ".ko"), "-", "_")
}

// order lists the files to load for the wanted modules, dependencies first. A module that is built in needs no file.
func (t *moduleTree) order(wanted []string) ([]string, error) {
	var files []string
	var add func(name string, chain []string) error
	add = func(name string, chain []string) error {
		if t.builtin[name] {
			return nil
		}
		file, ok := t.files[name]
		if !ok {
			return fmt.Errorf("find module %s (%s): this kernel has it neither as a file nor built in", name, strings.Join(chain, " < "))
		}
		if slices.Contains(files, file) {
			return nil
		}
		if slices.Contains(chain, name) {
			return fmt.Errorf("order module %s: it depends on itself (%s)", name, strings.Join(chain, " < "))
		}
		needed, err := dependencies(file)
		if err != nil {
			return err
		}
		for _, n := range needed {
			if err := add(n, append(chain, name)); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	for _, name := range wanted {
		if err := add(name, nil); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// readModule gives the module in a file, unpacked: a guest would take longer to do that than to load it.
func readModule(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	defer f.Close()
	content := io.Reader(f)
	if strings.HasSuffix(file, packed) {
		if content, err = xz.NewReader(f); err != nil {
			return nil, fmt.Errorf("unpack module %s: %w", file, err)
		}
	}
	raw, err := io.ReadAll(content)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	return raw, nil
}

// dependencies reads "depends=a,b" from the .modinfo section of a module.
func dependencies(file string) ([]string, error) {
	content, err := readModule(file)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read module %s: no .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if names, ok := strings.CutPrefix(field, "depends="); ok && names != "" {
			return strings.Split(strings.ReplaceAll(names, "-", "_"), ","), nil
		}
	}
	return nil, nil
}
