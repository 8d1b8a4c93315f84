// Command summary reads the JSON streams of `go test -json` and prints what a person wants to know: each
// package's verdict, the output of what failed, why each skipped test was skipped, and one last line with
// the counts. It ends with 1 when anything failed, so that a script needs no other check.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

func main() {
	final := flag.Bool("final", false, "print only the last line, counted over all the files")
	flag.Parse()
	total, err := summarize(flag.Args(), os.Stdin, os.Stdout, *final)
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(2)
	}
	if total.failed > 0 || total.passed == 0 {
		os.Exit(1)
	}
}

func summarize(files []string, stdin io.Reader, out io.Writer, final bool) (*report, error) {
	r := newReport()
	if len(files) == 0 {
		if err := r.read(stdin); err != nil {
			return nil, err
		}
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		err = r.read(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if !final {
		r.print(out)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r, nil
}

// event is one line of test2json; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type report struct {
	passed, failed, skipped int
	output                  map[string][]string // by package and test
	build                   map[string][]string // compiler output by import path
	lines                   []string            // in order of arrival
}

func newReport() *report {
	return &report{output: map[string][]string{}, build: map[string][]string{}}
}

func (r *report) read(in io.Reader) error {
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 64<<10), 16<<20)
	for scan.Scan() {
		line := scan.Bytes()
		var e event
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' {
			r.lines = append(r.lines, string(line)) // what the go command says of itself
			continue
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("parse %q: %w", line, err)
		}
		r.add(e)
	}
	return scan.Err()
}

func (r *report) add(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "build-output":
		r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnd(e, key)
			return
		}
		r.testEnd(e, key)
	}
}

func (r *report) testEnd(e event, key string) {
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		r.lines = append(r.lines, fmt.Sprintf("skip %s %s: %s", short(e.Package), e.Test, reason(r.output[key])))
	case "fail":
		r.failed++
		r.lines = append(r.lines, fmt.Sprintf("FAIL %s %s (%.1fs)\n%s", short(e.Package), e.Test, e.Elapsed, strings.Join(r.output[key], "")))
	}
	delete(r.output, key)
}

// packageEnd notes a package's verdict. A package that failed without a failed test (it did not
// compile, or died) counts as one failure.
func (r *report) packageEnd(e event, key string) {
	text := strings.Join(r.output[key], "")
	switch {
	case e.Action == "skip", strings.Contains(text, "[no test files]"):
		return
	case e.Action == "pass":
		r.lines = append(r.lines, fmt.Sprintf("ok   %s (%.1fs)", short(e.Package), e.Elapsed))
		return
	}
	var open []string // tests that never ended, as when the process died
	for k, out := range r.output {
		if pkg, test, _ := strings.Cut(k, "\x00"); pkg == e.Package && test != "" {
			open = append(open, test+"\n"+strings.Join(out, ""))
		}
	}
	sort.Strings(open)
	if len(open) > 0 || !strings.Contains(strings.Join(r.lines, "\n"), "FAIL "+short(e.Package)+" ") {
		r.failed++
	}
	for path, out := range r.build {
		text += "build " + path + ":\n" + strings.Join(out, "")
	}
	r.build = map[string][]string{}
	r.lines = append(r.lines, fmt.Sprintf("FAIL %s\n%s%s", short(e.Package), strings.Join(open, ""), text))
}

func (r *report) print(out io.Writer) {
	for _, line := range r.lines {
		fmt.Fprintln(out, strings.TrimRight(line, "\n"))
	}
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/nodeless/nodeless/") }

// reason is what the test said when it skipped: its last line of output that is not the runner's own.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		s := strings.TrimSpace(output[i])
		if s != "" && !strings.HasPrefix(s, "---") && !strings.HasPrefix(s, "===") {
			return s
		}
	}
	return "no reason given"
}
