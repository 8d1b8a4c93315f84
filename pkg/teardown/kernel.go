package teardown

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/netdev"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// kernelFile is where the kernel's settings are kept that a server has found, in the run folder.
const kernelFile = "kernel.json"

// found are the settings of a host's kernel before a server has changed any. They are right until the host boots again.
type found struct {
	BootID string            `json:"bootID"`
	Values map[string]string `json:"values"` // by path below /proc/sys
}

// KernelSettings are the kernel's settings that a server changes, and to what, in the order in which they are put back. Forwarding comes
// first: the kernel changes others along with it.
func KernelSettings() [][2]string {
	all := netdev.Settings()
	return append(all, [][2]string{
		// the kernel's own doing when forwarding begins
		{"net/ipv4/conf/all/accept_redirects", "0"},
		// the kubelet's
		{"vm/overcommit_memory", "1"}, {"vm/panic_on_oom", "0"}, {"kernel/panic", "10"}, {"kernel/panic_on_oops", "1"},
		{"kernel/keys/root_maxkeys", "1000000"}, {"kernel/keys/root_maxbytes", "25000000"},
	}...)
}

// RememberKernel notes the kernel's settings before a server changes them, unless one has since this boot. root is / but in tests.
func RememberKernel(root, runDir string) error {
	id, err := sandboxrecord.BootID(os.DirFS(filepath.Join(root, "proc")))
	if err != nil {
		return fmt.Errorf("note the kernel's settings: %w", err)
	}
	path := filepath.Join(root, runDir, kernelFile)
	if have, err := readKernel(path); err == nil && have.BootID == id {
		return nil
	}
	now := found{BootID: id, Values: map[string]string{}}
	for _, s := range KernelSettings() {
		raw, err := os.ReadFile(filepath.Join(root, "proc/sys", s[0]))
		if err == nil { // some come with a module
			now.Values[s[0]] = strings.TrimSpace(string(raw))
		}
	}
	raw, err := json.Marshal(now)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), atomicfile.Write(path, raw, 0o600))
	}
	if err != nil {
		return fmt.Errorf("note the kernel's settings: %w", err)
	}
	return nil
}

func readKernel(path string) (found, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return found{}, err
	}
	var f found
	if err := json.Unmarshal(raw, &f); err != nil {
		return found{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return f, nil
}

// change is a setting that goes back.
type change struct{ path, from, to string }

// kernelChanges are the settings that are as a server has set them and were not so before. What somebody has set since stays.
func (in Installation) kernelChanges() ([]change, error) {
	was, err := readKernel(in.Host.path(in.RunDir, kernelFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kernel's settings of before: %w", err)
	}
	if id, err := sandboxrecord.BootID(os.DirFS(in.Host.path("proc"))); err != nil || id != was.BootID {
		return nil, err
	}
	var all []change
	for _, s := range KernelSettings() {
		raw, err := os.ReadFile(in.Host.path("proc/sys", s[0]))
		before, noted := was.Values[s[0]]
		if err == nil && noted && before != s[1] && strings.TrimSpace(string(raw)) == s[1] {
			all = append(all, change{s[0], s[1], before})
		}
	}
	return all, nil
}

func (in Installation) findKernel(context.Context) ([]string, error) {
	changes, err := in.kernelChanges()
	var names []string
	for _, c := range changes {
		names = append(names, fmt.Sprintf("kernel setting %s = %s, which was %s", strings.ReplaceAll(c.path, "/", "."), c.from, c.to))
	}
	return names, err
}

func (in Installation) removeKernel(context.Context) error {
	changes, err := in.kernelChanges()
	errs := []error{err}
	for _, c := range changes {
		if err := os.WriteFile(in.Host.path("proc/sys", c.path), []byte(c.to), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("put kernel setting %s back: %w", strings.ReplaceAll(c.path, "/", "."), err))
		}
	}
	return errors.Join(errs...)
}
