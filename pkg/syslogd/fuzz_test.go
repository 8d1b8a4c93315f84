package syslogd

import (
	"strings"
	"testing"
)

// FuzzParse takes any message apart: sender and text are parts of it, and nothing of a message without a sender is lost.
func FuzzParse(f *testing.F) {
	f.Add("<14>2026-01-02T03:04:05Z host kata[17]: a: b[3]: c\n")
	f.Add("<30>Jan  2 03:04:05 virtiofsd[9]: x")
	f.Add("<<<>>>[1]: [2]: \xff\x00\n\n")
	f.Add(strings.Repeat("a[1]:", 1000) + strings.Repeat("[", 1000))
	f.Fuzz(func(t *testing.T, message string) {
		tag, text := parse(message)
		rest := strings.TrimRight(message, "\n\x00")
		switch {
		case tag == "" && text != rest:
			t.Errorf("parse(%q) = %q, all of it is wanted", message, text)
		case tag != "" && (!strings.HasSuffix(rest, text) || !strings.Contains(rest, tag+":") || strings.ContainsAny(tag, " \t\n")):
			t.Errorf("parse(%q) = %q, %q", message, tag, text)
		}
	})
}
