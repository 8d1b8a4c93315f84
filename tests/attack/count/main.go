// Command count prints what became of the attacks in a file of tests/attack: a row for each threat of the list, and one last line
//
//	attacks: tried=N refused=N contained=N succeeded=0
//
// It ends with 1 when one succeeded, when none was tried, or, without -partial, when a threat of the list was not tried at all.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nodeless/nodeless/tests/attack"
)

// threats is how many the list has: T1 to T24.
const threats = 24

func main() {
	partial := flag.Bool("partial", false, "not every threat of the list has to be tried")
	flag.Parse()
	ok, err := count(flag.Arg(0), *partial, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// tally is what became of the attacks of one threat, or of all.
type tally struct{ tried, refused, contained, succeeded int }

func (t *tally) add(o attack.Outcome) {
	t.tried++
	switch o {
	case attack.Refused:
		t.refused++
	case attack.Contained:
		t.contained++
	default:
		t.succeeded++
	}
}

func (t *tally) String() string {
	return fmt.Sprintf("tried=%d refused=%d contained=%d succeeded=%d", t.tried, t.refused, t.contained, t.succeeded)
}

func count(name string, partial bool, out io.Writer) (ok bool, err error) {
	lines, err := read(name)
	if err != nil {
		return false, err
	}
	rows, total := map[string]*tally{}, &tally{}
	for _, l := range lines {
		if rows[l.Threat] == nil {
			rows[l.Threat] = &tally{}
		}
		rows[l.Threat].add(l.Outcome)
		total.add(l.Outcome)
		if l.Outcome != attack.Refused && l.Outcome != attack.Contained {
			fmt.Fprintf(out, "SUCCEEDED %s %s (%s)\n", l.Threat, l.What, l.Test)
		}
	}
	missing := 0
	for n := 1; n <= threats; n++ {
		threat := fmt.Sprintf("T%d", n)
		row := rows[threat]
		if row == nil {
			missing++
			if !partial {
				fmt.Fprintf(out, "%-4s not tried\n", threat)
			}
			continue
		}
		fmt.Fprintf(out, "%-4s %s\n", threat, row)
	}
	fmt.Fprintf(out, "attacks: %s\n", total)
	return total.tried > 0 && total.succeeded == 0 && (partial || missing == 0), nil
}

// read gives the attacks of the file, the last of each test where one was tried again. A file that is not there has none.
func read(name string) ([]attack.Line, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []attack.Line
	at := map[string]int{}
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		var l attack.Line
		if err := json.Unmarshal(scan.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("parse %q: %w", scan.Text(), err)
		}
		if i, again := at[l.Test]; again {
			lines[i] = l
			continue
		}
		at[l.Test] = len(lines)
		lines = append(lines, l)
	}
	return lines, scan.Err()
}
