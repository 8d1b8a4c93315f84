package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"unicode"
)

// longest is the number of characters in the longest sequence that is counted.
const longest = 4

// smoothing is what each sequence counts before it was ever seen in a language (Lidstone).
const smoothing = 0.1

// unknown is the language of a text without any sequence that the model knows, as BCP 47 writes it.
const unknown = "und"

// model is a naive Bayes classifier: how often each sequence of 1 to 4 characters stands in each language.
type model struct {
	Languages []string         `json:"languages"`
	Counts    map[string][]int `json:"counts"` // by sequence; as many numbers as languages

	totals []float64 // of sequences by length and language, with smoothing
}

// train makes the model of a corpus, as it is stored. The same corpus gives the same bytes.
func train(corpus fs.FS) ([]byte, error) {
	files, err := fs.Glob(corpus, "*.txt") // sorted
	if err != nil {
		return nil, err
	}
	if len(files) < 2 {
		return nil, fmt.Errorf("%d files *.txt, want one for each of two languages or more", len(files))
	}
	m := model{Counts: map[string][]int{}}
	for i, file := range files {
		raw, err := fs.ReadFile(corpus, file)
		if err != nil {
			return nil, err
		}
		m.Languages = append(m.Languages, strings.TrimSuffix(path.Base(file), ".txt"))
		seen := 0
		for gram := range grams(string(raw)) {
			if m.Counts[gram] == nil {
				m.Counts[gram] = make([]int, len(files))
			}
			m.Counts[gram][i]++
			seen++
		}
		if seen == 0 {
			return nil, fmt.Errorf("%s has no letters", file)
		}
	}
	return json.Marshal(m) // the keys of a map come out sorted
}

// parseModel reads what train made.
func parseModel(raw []byte) (*model, error) {
	var m model
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	if len(m.Languages) < 2 || len(m.Counts) == 0 {
		return nil, errors.New("read model: want two languages or more and their counts")
	}
	kinds := make([]float64, longest)
	m.totals = make([]float64, longest*len(m.Languages))
	for gram, counts := range m.Counts {
		n := len([]rune(gram)) - 1
		if n < 0 || n >= longest || len(counts) != len(m.Languages) {
			return nil, fmt.Errorf("read model: sequence %q has %d counts, want 1 to %d characters and %d counts", gram, len(counts), longest, len(m.Languages))
		}
		kinds[n]++
		for i, c := range counts {
			m.totals[n*len(m.Languages)+i] += float64(c)
		}
	}
	for i := range m.totals {
		m.totals[i] += smoothing * kinds[i/len(m.Languages)]
	}
	return &m, nil
}

// classify gives the most likely language of a text and how likely each is, which adds up to one. A text with nothing that the
// model knows is of no language, and all are as likely.
func (m *model) classify(text string) (string, map[string]float64) {
	scores := make([]float64, len(m.Languages)) // logarithms
	known := false
	for gram := range grams(text) {
		counts := m.Counts[gram]
		if counts == nil {
			continue
		}
		known = true
		base := (len([]rune(gram)) - 1) * len(m.Languages)
		for i, c := range counts {
			scores[i] += math.Log((float64(c) + smoothing) / m.totals[base+i])
		}
	}
	most := slices.Max(scores)
	sum := 0.0
	for i := range scores {
		scores[i] = math.Exp(scores[i] - most)
		sum += scores[i]
	}
	language, probabilities := unknown, make(map[string]float64, len(scores))
	for i, name := range m.Languages {
		probabilities[name] = scores[i] / sum
		if known && scores[i] == 1 && language == unknown {
			language = name
		}
	}
	return language, probabilities
}

// grams gives each sequence of 1 to longest characters of each word, in small letters, with a space before and behind the word.
func grams(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !unicode.IsLetter(r) }) {
			padded := []rune(" " + strings.ToLower(word) + " ")
			for from := range padded {
				for n := 1; n <= longest && from+n <= len(padded); n++ {
					if n == 1 && padded[from] == ' ' {
						continue // it says nothing
					}
					if !yield(string(padded[from : from+n])) {
						return
					}
				}
			}
		}
	}
}
