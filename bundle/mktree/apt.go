package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// keyring is what Debian's releases are signed by; no other key counts.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt reads the packages of a Debian release that the machine need not run: mirrors are those of the machine's own
// configuration, under the other release's name; lists and caches are apart, so nothing on the machine changes.
type apt struct {
	dir       string // for the list of sources, the package lists and the caches
	refreshed bool   // the lists were renewed in this run
}

// newApt prepares dir for packages of release on a machine that runs the release have.
func newApt(dir, have, release string) (*apt, error) {
	const format = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
	out, err := exec.Command("apt-get", "indextargets", "--format", format, "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for the machine's mirrors: %w", err)
	}
	sources := sourcesOf(string(out), have, release)
	if len(sources) == 0 {
		return nil, fmt.Errorf("apt's sources name no suite of %s with the component main; the bundle's packages come from the same mirrors, of %s", have, release)
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make apt's folders: %w", err)
		}
	}
	a := &apt{dir: dir}
	list := strings.Join(sources, "\n") + "\n"
	if before, err := os.ReadFile(a.list()); err == nil && string(before) == list {
		return a, nil
	}
	return a, atomicfile.Write(a.list(), []byte(list), 0o644)
}

// sourcesOf turns what apt says of the machine's main suites into sources of another release. Suites that a release has beside its own
// (updates, security) go along; others (backports, a suite of somebody else) do not.
func sourcesOf(targets, have, want string) []string {
	var sources []string
	for line := range strings.Lines(targets) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] != "main" {
			continue
		}
		suffix, ours := strings.CutPrefix(fields[1], have)
		if !ours || !slices.Contains([]string{"", "-updates", "-security"}, suffix) {
			continue
		}
		source := fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s%s main", keyring, fields[0], want, suffix)
		if !slices.Contains(sources, source) {
			sources = append(sources, source)
		}
	}
	return sources
}

func (a *apt) list() string { return filepath.Join(a.dir, "sources.list") }

// options keep apt within dir. What the machine has installed does not count, nor what it prefers.
func (a *apt) options() []string {
	var args []string
	for _, o := range []string{
		"Dir::Etc::sourcelist=" + a.list(), "Dir::Etc::sourceparts=-", "Dir::Etc::preferences=/dev/null", "Dir::Etc::preferencesparts=/dev/null",
		"Dir::State=" + a.dir, "Dir::State::lists=" + filepath.Join(a.dir, "lists"), "Dir::State::status=/dev/null",
		"Dir::Cache=" + filepath.Join(a.dir, "cache"), "APT::Sandbox::User=root", "APT::Default-Release=",
	} {
		args = append(args, "-o", o)
	}
	return args
}

// refresh renews the lists, once: lists older than the mirror name files that are gone.
func (a *apt) refresh() error {
	if a.refreshed {
		return nil
	}
	a.refreshed = true
	if out, err := exec.Command("apt-get", append(a.options(), "update", "-qq")...).CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get update for the bundle's packages: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// download puts one version of a package into the folder to.
func (a *apt) download(name, version, to string) error {
	cmd := exec.Command("apt-get", append(a.options(), "download", "-qq", name+"="+version)...)
	cmd.Dir = to
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch package %s=%s: %w: %s", name, version, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// candidate is the newest version of a package.
func (a *apt) candidate(name string) (string, error) {
	out, err := exec.Command("apt-cache", append(a.options(), "policy", name)...).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache policy %s: %w", name, err)
	}
	for line := range strings.Lines(string(out)) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && version != "(none)" {
			return version, nil
		}
	}
	return "", fmt.Errorf("package %s is in none of the suites of %s", name, a.list())
}

// machineRelease is the codename of the Debian that this machine runs.
func machineRelease() (string, error) {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("find the Debian release: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, _ := strings.Cut(lines.Text(), "="); key == "VERSION_CODENAME" {
			return strings.Trim(value, `"`), nil
		}
	}
	return "", errors.Join(errors.New("find the Debian release: /etc/os-release names none"), lines.Err())
}
