package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// firstColumn begins the head of the table in docs/SPECIFICATION.md that a column is filled of.
const firstColumn = "| Line of the benchmark |"

// columns of that table as it is without measurements on KVM: names, what each is, aim, reached.
const columns = 4

// figure is what a line of the benchmark said.
type figure struct {
	value float64
	unit  string
}

// readFigures takes the lines `bench NAME VALUE UNIT` out of a run's output. Of a name that comes twice the last one counts.
func readFigures(r io.Reader) (map[string]figure, error) {
	figures := map[string]figure{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 4 || fields[0] != "bench" {
			continue
		}
		value, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			return nil, fmt.Errorf("read the line %q: %w", lines.Text(), err)
		}
		figures[fields[1]] = figure{value, fields[3]}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read figures: %w", err)
	}
	if len(figures) == 0 {
		return nil, errors.New("read figures: the run printed no line `bench NAME VALUE UNIT`")
	}
	return figures, nil
}

// fillColumn gives the page with a last column of what was measured on the host called title. A column that is there already is replaced.
func fillColumn(page, title string, figures map[string]figure) (string, error) {
	head := strings.Index(page, firstColumn)
	if head < 0 {
		return "", fmt.Errorf("fill the column: the page has no table that begins with %q", firstColumn)
	}
	table, rest, _ := strings.Cut(page[head:], "\n\n")
	var out []string
	for i, row := range strings.Split(table, "\n") {
		cells := strings.Split(strings.TrimSuffix(strings.TrimSpace(row), "|"), "|")
		cells = append(cells[:min(len(cells), columns+1)], cellOf(i, cells, title, figures))
		out = append(out, strings.Join(cells, "|")+"|")
	}
	return page[:head] + strings.Join(out, "\n") + "\n\n" + rest, nil
}

// cellOf is the last cell of a table's row: its title, the line below it, or the figures of the names in its first cell.
func cellOf(row int, cells []string, title string, figures map[string]figure) string {
	switch {
	case row == 0:
		return " " + strings.ReplaceAll(title, "|", "/") + " "
	case row == 1:
		return "---"
	case len(cells) < 2:
		return " "
	}
	var values []string
	for _, name := range namesIn(cells[1]) {
		value := "–"
		if f, ok := figures[name]; ok {
			value = strconv.FormatFloat(f.value, 'g', 3, 64) + " " + f.unit
		}
		values = append(values, value)
	}
	return " " + strings.Join(values, ", ") + " "
}

var quoted = regexp.MustCompile("`([a-z0-9_]+)`")

// namesIn are the lines of the benchmark that a first cell names. One that begins with "_" is the end of a sibling of the one before:
// of a longer name, or in place of its last word.
func namesIn(cell string) []string {
	var names []string
	for _, match := range quoted.FindAllStringSubmatch(cell, -1) {
		name := match[1]
		if strings.HasPrefix(name, "_") && len(names) > 0 {
			before := names[len(names)-1]
			if strings.HasSuffix(before, "_on") || strings.HasSuffix(before, "_p50") {
				before = before[:strings.LastIndexByte(before, '_')]
			}
			name = before + name
		}
		names = append(names, name)
	}
	return names
}

// fillPage writes the column into the file page.
func fillPage(page, title string, lines io.Reader) error {
	figures, err := readFigures(lines)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("fill the column: %w", err)
	}
	after, err := fillColumn(string(before), title, figures)
	if err != nil {
		return err
	}
	if err := os.WriteFile(page, []byte(after), 0o644); err != nil {
		return fmt.Errorf("fill the column: %w", err)
	}
	return nil
}

// ratios prints how two runs on one machine compare, for where a figure by itself would say nothing of the product.
func ratios(out io.Writer, over, under io.Reader) error {
	a, errA := readFigures(over)
	b, errB := readFigures(under)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	return printRatios(printer{out}, a, b)
}

func printRatios(p printer, a, b map[string]figure) error {
	n := 0
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if b[name].value == 0 {
			continue
		}
		p.line(name+"_ratio_kvm_to_tcg", a[name].value/b[name].value, "x")
		n++
	}
	if n == 0 {
		return errors.New("compare two runs: they have no line in common")
	}
	return nil
}

// columnMain is `bench column PAGE TITLE LINES`, which fills a column of the page with a run's lines, and `bench column LINES LINES`,
// which prints the ratios of two runs. LINES is a file.
func columnMain(args []string) error {
	switch len(args) {
	case 2:
		over, errA := os.Open(args[0])
		under, errB := os.Open(args[1])
		if err := errors.Join(errA, errB); err != nil {
			return fmt.Errorf("compare two runs: %w", err)
		}
		return errors.Join(ratios(os.Stdout, over, under), over.Close(), under.Close())
	case 3:
		lines, err := os.Open(args[2])
		if err != nil {
			return fmt.Errorf("fill the column: %w", err)
		}
		return errors.Join(fillPage(args[0], args[1], lines), lines.Close())
	}
	return errors.New("usage: bench column PAGE TITLE LINES | bench column LINES LINES")
}
