package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// verdict is what became of a test at its last run.
type verdict struct {
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message,omitempty"` // why it failed, or failed at first
	Again   bool    `json:"again,omitempty"`   // it failed beside other tests and passed alone
	Build   string  `json:"build,omitempty"`   // the product's checksum, shortened
}

// verdicts are what is known so far, by test.
type verdicts map[string]verdict

func stateFile(dir, sizing string) string { return filepath.Join(dir, sizing+".json") }

func loadVerdicts(dir, sizing string) (verdicts, error) {
	v := verdicts{}
	raw, err := os.ReadFile(stateFile(dir, sizing))
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("read verdicts of an earlier run: %w", err)
	}
	return v, nil
}

func (v verdicts) save(dir, sizing string) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(stateFile(dir, sizing), raw, 0o644)
}

// ginkgoReport is the part of Ginkgo's report that is looked at.
type ginkgoReport struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeText            string
		LeafNodeType            string
		State                   string
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

// take adds what a report of a build says of tests that came to an end. One that the end of its time broke off has not been run.
func (v verdicts) take(file, build string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var reports []ginkgoReport
	if err := json.Unmarshal(raw, &reports); err != nil {
		return fmt.Errorf("read Ginkgo's report: %w", err)
	}
	for _, r := range reports {
		for _, s := range r.SpecReports {
			if s.LeafNodeType != "It" {
				continue
			}
			name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
			switch s.State {
			case "passed":
				v[name] = verdict{Passed: true, Seconds: s.RunTime.Seconds(), Build: build}
			case "failed", "panicked", "aborted":
				v[name] = verdict{Seconds: s.RunTime.Seconds(), Message: s.Failure.Message, Build: build}
			}
		}
	}
	return nil
}

// takeAgain adds what became of tests that failed and were run alone after it. What they failed of first is kept.
func (v verdicts) takeAgain(second verdicts) {
	for name, s := range second {
		if s.Passed {
			s.Again, s.Message = true, v[name].Message
		}
		v[name] = s
	}
}

// builds is how many builds of the product the verdicts are of.
func (v verdicts) builds() int {
	seen := map[string]bool{}
	for _, one := range v {
		seen[one.Build] = true
	}
	return len(seen)
}

// buildOf is the first digits of a program's SHA-256.
func buildOf(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", program, err)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}
