package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	all := ""
	for n := 1; n <= threats; n++ {
		all += strings.ReplaceAll(`{"Threat":"T#","What":"w","Test":"Test#","Outcome":"refused"}`+"\n", "#", string(rune('0'+n/10))+string(rune('0'+n%10)))
	}
	all = strings.NewReplacer(`"T0`, `"T`).Replace(all)
	for _, c := range []struct {
		name, text, last string
		partial, ok      bool
	}{
		{name: "every threat refused", text: all, last: "attacks: tried=24 refused=24 contained=0 succeeded=0", ok: true},
		{name: "one threat missing", text: all[strings.Index(all, "\n")+1:], last: "attacks: tried=23 refused=23 contained=0 succeeded=0"},
		{name: "one threat missing, partial", text: all[strings.Index(all, "\n")+1:], last: "attacks: tried=23 refused=23 contained=0 succeeded=0", partial: true, ok: true},
		{name: "one succeeded", text: all + `{"Threat":"T3","What":"w","Test":"x","Outcome":"succeeded"}` + "\n", last: "attacks: tried=25 refused=24 contained=0 succeeded=1"},
		{name: "a second try counts in the first one's place", text: all + `{"Threat":"T3","What":"w","Test":"Test03","Outcome":"contained"}` + "\n", last: "attacks: tried=24 refused=23 contained=1 succeeded=0", ok: true},
		{name: "none tried", last: "attacks: tried=0 refused=0 contained=0 succeeded=0", partial: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "attacks")
			if c.text != "" {
				if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			ok, err := count(file, c.partial, &out)
			if err != nil || ok != c.ok {
				t.Errorf("count = %v, %v; want %v\n%s", ok, err, c.ok, out.String())
			}
			if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); lines[len(lines)-1] != c.last {
				t.Errorf("last line is %q, want %q", lines[len(lines)-1], c.last)
			}
		})
	}
}
