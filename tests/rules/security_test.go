package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// threats is how many docs/security.md has: T1 to T24.
const threats = 24

var (
	threatRow  = regexp.MustCompile(`(?m)^\| (T\d+) \|.*$`)
	attackName = regexp.MustCompile(`\bTestAttack\w*`)
)

// TestSecurityPageNamesItsTests: each threat of docs/security.md has one row, which names the attacks that show what the row says; each of
// them is in the tree, in a file that tries this threat, and no attack is left out.
func TestSecurityPageNamesItsTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, named := map[string]string{}, map[string]bool{} // by attack: the text of its file; whether the page names it
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range regexp.MustCompile(`(?m)^func (TestAttack\w*)\(`).FindAllStringSubmatch(string(text), -1) {
			if files[declared[1]] != "" {
				t.Errorf("there are two tests %s; `make attacks` tells them by their names", declared[1])
			}
			files[declared[1]] = string(text)
		}
	}
	rows := map[string]int{}
	for _, row := range threatRow.FindAllStringSubmatch(string(page), -1) {
		threat := row[1]
		rows[threat]++
		names := attackName.FindAllString(row[0], -1)
		if len(names) == 0 {
			t.Errorf("docs/security.md: %s names no attack", threat)
		}
		for _, name := range names {
			named[name] = true
			if !strings.Contains(files[name], `"`+threat+`"`) {
				t.Errorf("docs/security.md: %s names %s, which is not in the tree or tries nothing of %[1]s", threat, name)
			}
		}
	}
	for n := 1; n <= threats; n++ {
		if threat := fmt.Sprintf("T%d", n); rows[threat] != 1 {
			t.Errorf("docs/security.md has %d rows for %s", rows[threat], threat)
		}
	}
	for name := range files {
		if !named[name] {
			t.Errorf("docs/security.md has no row that names %s", name)
		}
	}
}

// TestGuestReadsNamesItsTests: each place of docs/guest-reads.md says which test shows its bound, by a name that is in the tree, or says
// that there is none.
func TestGuestReadsNamesItsTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs/guest-reads.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^func (Test\w*)\(`).FindAllStringSubmatch(string(text), -1) {
			declared[match[1]] = true
		}
	}
	places, named := 0, regexp.MustCompile(`\bTest\w+`)
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| Place ") {
			continue
		}
		places++
		shown := strings.TrimSpace(cells[3])
		if shown == "" {
			t.Errorf("docs/guest-reads.md: %s: no word on its test", strings.TrimSpace(cells[0]))
		}
		for _, name := range named.FindAllString(shown, -1) {
			if !declared[name] {
				t.Errorf("docs/guest-reads.md names %s, which is not in the tree", name)
			}
		}
	}
	if places < 20 {
		t.Errorf("docs/guest-reads.md has %d places", places)
	}
}
