package config

import (
	"errors"
	"testing"

	"github.com/nodeless/nodeless/pkg/hint"
)

// FuzzFile is a configuration file: each of its faults names a place and what to do, and what is accepted is a value that
// the setting takes.
func FuzzFile(f *testing.F) {
	f.Add([]byte("data-dir: /d\ncluster-cidr: 10.1.0.0/16\ntls-san: [a, b]\ntls-san+: c\nlog-level: debug\n"))
	f.Add([]byte("a: &a [*a, *a]\ndisable: *a\nmax-pods: &n 5\nnode-ip: *n\n<<: {x: y}\n"))
	f.Add([]byte("max-pods: [1]\nmax-pods: 2\nmax-podz: 3\nnode-name+: x\nkubelet-arg: {a: b}\nkubelet-arg+: [v=2, 'a=b,c']\n"))
	f.Add([]byte("- a\n- b\n"))
	f.Add([]byte("? [a, b]\n: c\n? {}\n: ~\nbind-address: !!null x\n--- \nb: c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		merged := map[string]setting{}
		err := parse("file", data, merged)
		if err == nil {
			err = parse("again", data, merged)
		}
		var told *hint.Error
		if err != nil && (!errors.As(err, &told) || told.Do == "") {
			t.Errorf("a fault without advice: %v", err)
		}
		for name, s := range merged {
			o, err := lookup(name)
			if err != nil {
				t.Fatalf("%q was accepted: %v", name, err)
			}
			var c Config
			if err := store(o.field(&c), o.Kind, s.values); err != nil {
				t.Errorf("%s = %q was accepted: %v", name, s.values, err)
			}
			_ = c.Validate() // of whatever it is: no panic
		}
	})
}
