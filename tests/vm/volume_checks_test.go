package vm_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// check is a shell command and what it must print.
type check struct{ name, command, want string }

// checks runs commands in a container and looks at what each prints; all go in one exec, which costs more than they do.
func (s *space) checks(pod, container string, all ...check) {
	s.T.Helper()
	var script strings.Builder
	for i, c := range all {
		fmt.Fprintf(&script, "echo; echo @@%d\n( %s\n) 2>&1\n", i, c.command) // what a command prints may lack its last newline
	}
	out := s.in(pod, container, script.String()+"true\n")
	for i, c := range all {
		_, after, found := strings.Cut(out, fmt.Sprintf("\n@@%d\n", i))
		got, _, _ := strings.Cut(after, fmt.Sprintf("@@%d\n", i+1))
		s.T.Run(c.name, func(t *testing.T) {
			if got = strings.TrimSpace(got); !found || got != c.want {
				t.Errorf("%s: %s\nprints %q, want %q", container, c.command, got, c.want)
			}
		})
	}
}

// in runs a shell script in a container and returns what it prints.
func (s *space) in(pod, container, script string) string {
	s.T.Helper()
	return s.Kubectl("exec", pod, "-c", container, "--", "sh", "-c", script)
}

// largeMB is the size of files that are large: enough for a guest's memory not to hold them, in CI; or what NODELESS_LARGE_MB says,
// which `make robustness FAULT=largefiles` sets to 2048.
func largeMB(t *testing.T) int {
	text := os.Getenv("NODELESS_LARGE_MB")
	if text == "" {
		return 64
	}
	mb, err := strconv.Atoi(text)
	if err != nil || mb < 4 || mb%4 != 0 {
		t.Fatalf("NODELESS_LARGE_MB is %q, want a multiple of 4", text)
	}
	return mb
}
