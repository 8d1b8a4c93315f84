package virtiofsd

import (
	"slices"
	"strings"
	"testing"
)

// FuzzTranslate gives the wrapper any arguments: they are refused, or the daemon shares the one folder it was told to, and
// is confined.
func FuzzTranslate(f *testing.F) {
	f.Add("--syslog\n--cache=auto\n--shared-dir=/run/s\n--fd=3\n--thread-pool-size=1\n--announce-submounts")
	f.Add("--shared-dir\n/a\n--cache\nmetadata\n-o\nxattr,flock\n--sandbox=none\n-d")
	f.Add("--shared-dir=/a\n--sandbox=chroot,source=/\n-o\nsource=/\n--shared-dir=/b")
	f.Add("--fd=+3\n--shared-dir=\n--seccomp\n--socket-path=-o,source=/")
	f.Fuzz(func(t *testing.T, lines string) {
		args := strings.Split(lines, "\n")
		out, err := Translate(args)
		if err != nil {
			return
		}
		var shared []string
		for i := 0; i < len(out); i++ {
			if out[i] != "-o" {
				continue
			}
			i++
			for _, option := range strings.Split(out[i], ",") {
				switch name, value, _ := strings.Cut(option, "="); name {
				case "source":
					shared = append(shared, value)
				case "sandbox":
					if value == "none" {
						t.Errorf("%q becomes %q, which is not confined", args, out)
					}
				}
			}
		}
		if len(shared) != 1 || !slices.Contains(args, "--shared-dir="+shared[0]) && !slices.Contains(args, shared[0]) {
			t.Errorf("%q becomes %q, which shares %q", args, out, shared)
		}
	})
}
