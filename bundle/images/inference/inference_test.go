package main

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func trained(t testing.TB) *model {
	t.Helper()
	raw, err := train(os.DirFS("corpus"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseModel(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTrainingIsDeterministic(t *testing.T) {
	first, err := train(os.DirFS("corpus"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		again, err := train(os.DirFS("corpus"))
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the same corpus gives another model, %v", err)
		}
	}
	if len(first) > 1<<20 {
		t.Errorf("the model has %d bytes, want at most 1 MiB", len(first))
	}
}

// TestHeldOutSentences: of sentences that the model has never seen, at least 95 in 100 are told right.
func TestHeldOutSentences(t *testing.T) {
	raw, err := os.ReadFile("testdata/heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	corpus := map[string]bool{}
	for _, language := range trained(t).Languages {
		text, err := os.ReadFile("corpus/" + language + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			corpus[strings.TrimSpace(line)] = true
		}
	}
	m := trained(t)
	right, all, seen := 0, 0, map[string]int{}
	for line := range strings.Lines(string(raw)) {
		want, text, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || corpus[text] {
			t.Fatalf("line %q: want a language, a tab and a sentence that is not in the corpus", line)
		}
		got, probabilities := m.classify(text)
		all++
		seen[want]++
		if got == want {
			right++
		} else {
			t.Logf("%q is taken for %s, want %s: %v", text, got, want, probabilities)
		}
	}
	t.Logf("%d of %d are right", right, all)
	if len(seen) != len(m.Languages) || float64(right) < 0.95*float64(all) {
		t.Errorf("%d of %d are right, in %d languages; want 95 %% in %d", right, all, len(seen), len(m.Languages))
	}
}

func TestProbabilities(t *testing.T) {
	m := trained(t)
	for _, tt := range []struct{ name, text, want string }{
		{"nothing known", "12345 !? 漢字", unknown},
		{"no valid UTF-8", "\xff\xfe", unknown},
		{"a word", "Straße", "de"},
		{"very long", strings.Repeat("ik denk dat het morgen gaat regenen ", 1700), "nl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, probabilities := m.classify(tt.text)
			sum := 0.0
			for _, p := range probabilities {
				sum += p
				if p > probabilities[got] && got != unknown || math.IsNaN(p) {
					t.Errorf("probabilities %v for language %q", probabilities, got)
				}
			}
			if got != tt.want || math.Abs(sum-1) > 1e-9 || len(probabilities) != len(m.Languages) {
				t.Errorf("language %q, want %q; %d probabilities add up to %v", got, tt.want, len(probabilities), sum)
			}
		})
	}
}

func TestBadModelsAndCorporaAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "one language": `{"languages":["en"],"counts":{"a":[1]}}`, "no counts": `{"languages":["en","de"]}`,
		"too few counts": `{"languages":["en","de"],"counts":{"a":[1]}}`, "long sequence": `{"languages":["en","de"],"counts":{"abcde":[1,1]}}`,
		"empty sequence": `{"languages":["en","de"],"counts":{"":[1,1]}}`,
	} {
		if _, err := parseModel([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, corpus := range map[string]fstest.MapFS{
		"one language": {"en.txt": {Data: []byte("hello")}},
		"no letters":   {"en.txt": {Data: []byte("hello")}, "de.txt": {Data: []byte("1 2 3\n")}},
	} {
		if _, err := train(corpus); err == nil {
			t.Errorf("corpus with %s: no error", name)
		}
	}
}

func TestClassifyOverHTTP(t *testing.T) {
	srv := httptest.NewServer(handler(trained(t)))
	defer srv.Close()
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		language                 string
	}{
		{"a sentence", http.MethodPost, "/v1/classify", `{"text": "Wir fahren morgen mit dem Zug nach Hause."}`, 200, "de"},
		{"no JSON", http.MethodPost, "/v1/classify", "Guten Tag", 400, ""},
		{"no text", http.MethodPost, "/v1/classify", `{}`, 400, ""},
		{"another field", http.MethodPost, "/v1/classify", `{"text": "a", "model": "b"}`, 400, ""},
		{"text of another kind", http.MethodPost, "/v1/classify", `{"text": 7}`, 400, ""},
		{"two objects", http.MethodPost, "/v1/classify", `{"text": "a"}{"text": "b"}`, 400, ""},
		{"a deep object", http.MethodPost, "/v1/classify", strings.Repeat("[", 60000), 400, ""},
		{"too large", http.MethodPost, "/v1/classify", `{"text": "` + strings.Repeat("a", mostBody) + `"}`, 413, ""},
		{"much behind the object", http.MethodPost, "/v1/classify", `{"text": "a"}` + strings.Repeat(" ", mostBody), 413, ""},
		{"another method", http.MethodGet, "/v1/classify", "", 405, ""},
		{"health", http.MethodGet, "/healthz", "", 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, srv.URL+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.status {
				t.Fatalf("status %s, want %d", res.Status, tt.status)
			}
			if tt.language == "" {
				return
			}
			var got answer
			if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if got.Language != tt.language || got.Device != "cpu" || got.Probabilities[tt.language] < 0.9 {
				t.Errorf("answer %+v, want %s", got, tt.language)
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	h := handler(trained(f))
	f.Add(`{"text": "hello"}`)
	f.Add(`{"text": "\ud800"}`)
	f.Fuzz(func(t *testing.T, body string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/classify", strings.NewReader(body)))
		if w.Code != 200 && w.Code != 400 && w.Code != 413 {
			t.Errorf("status %d for %q", w.Code, body)
		}
	})
}
