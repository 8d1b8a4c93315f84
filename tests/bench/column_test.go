package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const page = "# Numbers\n\n| Line of the benchmark | What it is | Aim | Reached |\n|---|---|---|---|\n" +
	"| `pod_a` | a | ≤ 1 s | 2 s |\n| `create_on` (`_off`) | b | – | 1 s (2 s) |\n| `load` (`_max`) | c | – | 1 s |\n| `w_32_p50`, `_p99` | d | – | 1 ms |\n\nMore.\n"

func TestColumnIsFilled(t *testing.T) {
	figures, err := readFigures(strings.NewReader("# a note\nbench pod_a 1.23456 s\nbench create_on 20 ms\nbench create_off 10.5 ms\nbench load 7 s\nbench w_32_p99 3 ms\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "# Numbers\n\n| Line of the benchmark | What it is | Aim | Reached | On KVM: box |\n|---|---|---|---|---|\n" +
		"| `pod_a` | a | ≤ 1 s | 2 s | 1.23 s |\n| `create_on` (`_off`) | b | – | 1 s (2 s) | 20 ms, 10.5 ms |\n| `load` (`_max`) | c | – | 1 s | 7 s, – |\n" +
		"| `w_32_p50`, `_p99` | d | – | 1 ms | –, 3 ms |\n\nMore.\n"
	got, err := fillColumn(page, "On KVM: box", figures)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fillColumn (-want +got):\n%s", diff)
	}
	again, err := fillColumn(got, "On KVM: box", figures)
	if err != nil || again != got {
		t.Errorf("a second time:\n%s, %v", cmp.Diff(got, again), err)
	}
}

// TestNamesOfThePage holds the page to a form that a column can be filled of: each row names lines, and none twice.
func TestNamesOfThePage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/SPECIFICATION.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(raw), firstColumn)
	if !found {
		t.Fatalf("docs/SPECIFICATION.md has no table that begins with %q", firstColumn)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	seen := map[string]bool{}
	for _, row := range strings.Split(table, "\n")[2:] {
		names := namesIn(strings.Split(row, "|")[1])
		if len(names) == 0 {
			t.Errorf("no line of the benchmark is named in %q", row)
		}
		for _, name := range names {
			if seen[name] || strings.HasPrefix(name, "_") {
				t.Errorf("%q is named twice, or is no whole name: %q", name, row)
			}
			seen[name] = true
		}
	}
}

func TestRatios(t *testing.T) {
	var out strings.Builder
	err := ratios(&out, strings.NewReader("bench a 1 s\nbench only 1 s\n"), strings.NewReader("bench a 4 s\nbench zero 0 s\n"))
	if want := "bench a_ratio_kvm_to_tcg 0.25 x\n"; err != nil || out.String() != want {
		t.Errorf("ratios = %q, %v; want %q", out.String(), err, want)
	}
	if err := ratios(&out, strings.NewReader("bench a 1 s\n"), strings.NewReader("bench b 1 s\n")); err == nil {
		t.Error("runs without a line in common: no error")
	}
	if err := ratios(&out, strings.NewReader(""), strings.NewReader("bench b 1 s\n")); err == nil {
		t.Error("a run without a line: no error")
	}
}
