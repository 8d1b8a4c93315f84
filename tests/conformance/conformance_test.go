package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/tests/testregistry"
)

// upstream are the names of all conformance tests of the Kubernetes that is linked.
func upstream(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	names, err := readList(filepath.Join(strings.TrimSpace(string(dir)), "test/conformance/testdata/conformance.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func table(t *testing.T) []known {
	t.Helper()
	all, err := readKnown(knownTable)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestListsNameTests: what is known to fail, to wait, and to be quick are tests that there are, each once.
func TestListsNameTests(t *testing.T) {
	names := upstream(t)
	if len(names) != 462 {
		t.Errorf("there are %d conformance tests; docs/conformance.md and scripts/conformance.sh say 462", len(names))
	}
	seen := map[string]bool{}
	for _, k := range table(t) {
		if !slices.Contains(names, k.Name) {
			t.Errorf("testdata/known.tsv: there is no test %q", k.Name)
		}
		for _, sizing := range []string{native, bySpec} {
			if k.Sizing != sizing && k.Sizing != "both" {
				continue
			}
			if seen[sizing+k.Name] {
				t.Errorf("testdata/known.tsv: %s is there twice for %s", k.Name, sizing)
			}
			seen[sizing+k.Name] = true
		}
	}
	in := map[string]int{}
	for _, name := range lines(smokeTests) {
		if !slices.Contains(names, name) {
			t.Errorf("testdata/smoke.txt: there is no test %q", name)
		}
		if seen[native+name] {
			t.Errorf("testdata/smoke.txt: %q is known to fail", name)
		}
		in[groupOf(name)]++
	}
	for _, group := range groups[1:] {
		if in[group] == 0 {
			t.Errorf("testdata/smoke.txt has no test of group %s", group)
		}
	}
	for _, begin := range slow {
		if n := len(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, begin) })); n != 1 {
			t.Errorf("%d tests begin with %q, want one", n, begin)
		}
	}
}

func TestEachTestHasAGroup(t *testing.T) {
	have := map[string]int{}
	for _, name := range upstream(t) {
		group := groupOf(name)
		if have[group]++; !slices.Contains(groups, group) {
			t.Errorf("%s is of group %q, which nobody runs", name, group)
		}
	}
	for _, group := range groups {
		if have[group] == 0 {
			t.Errorf("group %s has no test", group)
		}
	}
}

// TestDocumentHasTheTable: docs/conformance.md lists what fails, with its cause, as testdata/known.tsv has it.
func TestDocumentHasTheTable(t *testing.T) {
	raw, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `(\\[sig-.*)` \\| (both|native|spec) \\| (.*) \\|$").FindAllStringSubmatch(string(raw), -1)
	var got []known
	for _, r := range rows {
		got = append(got, known{r[2], r[1], r[3]})
	}
	if diff := cmp.Diff(table(t), got); diff != "" {
		t.Errorf("the table of docs/conformance.md (-known.tsv +document):\n%s", diff)
	}
}

func TestChosen(t *testing.T) {
	names := upstream(t)
	smoke := lines(smokeTests)
	for _, tt := range []struct {
		o    options
		want func(string) bool
	}{
		{options{group: "all"}, func(string) bool { return true }},
		{options{group: "cli"}, func(n string) bool { return groupOf(n) == "cli" }},
		{options{group: "api", smoke: true}, func(n string) bool { return groupOf(n) == "api" || slices.Contains(smoke, n) }},
		{options{group: "all", only: "HostPort"}, func(n string) bool { return strings.Contains(n, "HostPort") }},
	} {
		_, got, err := tt.o.chosen(names)
		want := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !tt.want(n) })
		if err != nil || !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%+v chooses %d tests, %v; want %d", tt.o, len(got), err, len(want))
		}
	}
	if _, _, err := (options{group: "everything"}).chosen(names); err == nil {
		t.Error("a group that there is none of is taken")
	}
}

// TestFocus: a test whose name goes on where another's ends is not run with it.
func TestFocus(t *testing.T) {
	re := regexp.MustCompile(focus([]string{"[sig-a] x (y) [Conformance]", "[sig-b] z"}))
	for name, want := range map[string]bool{
		"Kubernetes e2e suite [sig-a] x (y) [Conformance]": true, "Kubernetes e2e suite [sig-b] z": true,
		"Kubernetes e2e suite [sig-b] z [Slow]": false, "Kubernetes e2e suite [sig-c] [sig-b] z": false,
	} {
		if re.MatchString(name) != want {
			t.Errorf("%q fits: %v, want %v", name, !want, want)
		}
	}
}

// TestVerdicts: a report's verdicts are kept; a test that was broken off keeps the one it had.
func TestVerdicts(t *testing.T) {
	report := `[{"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
		{"ContainerHierarchyTexts": ["[sig-a] A", "when"], "LeafNodeText": "works", "LeafNodeType": "It", "State": "passed", "RunTime": 1500000000},
		{"ContainerHierarchyTexts": ["[sig-a] A"], "LeafNodeText": "fails", "LeafNodeType": "It", "State": "failed", "Failure": {"Message": "it does not"}},
		{"ContainerHierarchyTexts": ["[sig-a] A"], "LeafNodeText": "takes long", "LeafNodeType": "It", "State": "timedout"},
		{"ContainerHierarchyTexts": ["[sig-a] A"], "LeafNodeText": "comes later", "LeafNodeType": "It", "State": "skipped"}]}]`
	dir := t.TempDir()
	file := filepath.Join(dir, "report.json")
	if err := os.WriteFile(file, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	have, err := loadVerdicts(dir, native)
	if err != nil {
		t.Fatal(err)
	}
	have["[sig-a] A takes long"] = verdict{Passed: true}
	if err := errors.Join(have.take(file, "one"), have.save(dir, native)); err != nil {
		t.Fatal(err)
	}
	again, err := loadVerdicts(dir, native)
	if err != nil {
		t.Fatal(err)
	}
	want := verdicts{
		"[sig-a] A when works": {Passed: true, Seconds: 1.5, Build: "one"}, "[sig-a] A fails": {Message: "it does not", Build: "one"},
		"[sig-a] A takes long": {Passed: true},
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	names := []string{"[sig-a] A when works", "[sig-a] A fails", "[sig-a] A takes long", "[sig-a] A comes later"}
	if got := count(names, again, nil); got.passed != 2 || got.failed != 1 || got.missing != 1 || len(got.unknown) != 1 {
		t.Errorf("the tally is %+v", got)
	}
	why := map[string]string{"[sig-a] A fails": "one host"}
	if left := undone(map[string][]string{"a": names}, again, why); !slices.Equal(left["a"], []string{"[sig-a] A comes later"}) {
		t.Errorf("what is left to run is %v", left)
	}
	if left := undone(map[string][]string{"a": names}, again, nil); !slices.Equal(left["a"], []string{"[sig-a] A fails", "[sig-a] A comes later"}) {
		t.Errorf("without known causes what is left to run is %v", left)
	}
	if got := count(names, again, why); len(got.unknown) != 0 {
		t.Errorf("a known failure is unknown: %+v", got)
	}
	var out, events bytes.Buffer
	printTable(&out, names, again, why)
	if text := out.String(); !strings.HasSuffix(text, "\nconformance: passed=2 failed=1 not-run=1 of 4\n") || !strings.Contains(text, "failed: [sig-a] A fails\n  cause: one host\n") ||
		!strings.Contains(text, "verdicts on 2 builds") {
		t.Errorf("it is printed:\n%s", text)
	}
	if err := writeEvents(&events, names, again, why); err != nil {
		t.Fatal(err)
	}
	actions := map[string]int{}
	for line := range strings.Lines(events.String()) {
		var e struct{ Action, Test string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Test != "" {
			actions[e.Action]++
		}
	}
	if diff := cmp.Diff(map[string]int{"pass": 2, "skip": 1, "fail": 1, "output": 2}, actions); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestAgain: of tests that failed and were run once more, alone, one passes and says so, with what it said at first; the other fails.
func TestAgain(t *testing.T) {
	have := verdicts{"slow": {Message: "after half a minute"}, "wrong": {Message: "at first"}, "right": {Passed: true}}
	have.takeAgain(verdicts{"slow": {Passed: true, Seconds: 2}, "wrong": {Message: "and then"}})
	want := verdicts{"slow": {Passed: true, Seconds: 2, Again: true, Message: "after half a minute"}, "wrong": {Message: "and then"}, "right": {Passed: true}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	names := []string{"right", "slow", "wrong"}
	if got := failing(names, have, nil); !slices.Equal(got, []string{"wrong"}) {
		t.Errorf("%v fail", got)
	}
	var out, events bytes.Buffer
	printTable(&out, names, have, nil)
	if text := out.String(); !strings.Contains(text, "passed alone, after it failed beside others: slow\n  it said: after half a minute\n") {
		t.Errorf("it is printed:\n%s", text)
	}
	if err := writeEvents(&events, names, have, nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(events.String(), "failed beside others, and passed alone: after half a minute") {
		t.Errorf("events:\n%s", &events)
	}
}

func TestKnownTableIsRead(t *testing.T) {
	if all, err := readKnown("# comment\nboth\ta\twhy\nspec\tb\twhy\n"); err != nil || len(causes(all, native)) != 1 || len(causes(all, bySpec)) != 2 {
		t.Errorf("readKnown = %v, %v", all, err)
	}
	for _, wrong := range []string{"both\ta\n", "ever\ta\twhy\n", "spec\t\twhy\n", "spec\ta\t\n"} {
		if _, err := readKnown(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

// TestArchive: images that share a layer share it in the archive.
func TestArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base.tar")
	if err := os.WriteFile(path, testregistry.Tar(testregistry.File("etc/passwd", 0o644, "root")), 0o600); err != nil {
		t.Fatal(err)
	}
	base, own := layer{path: path}, layer{tar: testregistry.Tar(testregistry.File("x", 0o755, "y"))}
	var out bytes.Buffer
	if err := writeArchive(&out, []image{{[]string{"a:1", "a:2"}, v1.ImageConfig{Cmd: []string{"x"}}, []layer{base, own}}, {[]string{"b:1"}, v1.ImageConfig{}, []layer{base}}}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil || files[h.Name] != "" {
			t.Fatalf("%s is there twice, or %v", h.Name, err)
		}
		files[h.Name] = string(raw)
	}
	var manifest []manifestEntry
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifest); err != nil || len(manifest) != 2 {
		t.Fatalf("manifest %v, %v", manifest, err)
	}
	if len(files) != 5 || len(manifest[0].Layers) != 2 || manifest[0].Layers[0] != manifest[1].Layers[0] || !slices.Equal(manifest[0].RepoTags, []string{"a:1", "a:2"}) {
		t.Errorf("the archive has %d files and the manifest %+v", len(files), manifest)
	}
	for _, m := range manifest {
		if !strings.Contains(files[m.Config], strings.TrimSuffix(m.Layers[0], ".tar")) {
			t.Errorf("the configuration of %v is %s", m.RepoTags, files[m.Config])
		}
	}
	if text, err := inTar(path, "etc/passwd"); err != nil || text != "root" {
		t.Errorf("inTar = %q, %v", text, err)
	}
}

func TestRaiseShare(t *testing.T) {
	for file, want := range map[string]string{"cpu/host/cpu.shares": "8192", "host/cpu.weight": "800"} {
		dir := t.TempDir()
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("1024"), 0o600), raiseShare(dir, "host")); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %s", file, got, err, want)
		}
	}
}
