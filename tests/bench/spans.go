package main

import (
	"bufio"
	"io"
	"regexp"
	"strings"
	"time"
)

// spans are the parts of one Pod's way to Running, read from what containerd and the vmm log anyway.
type spans struct {
	sandbox   time.Duration // RunPodSandbox asked → answered
	container time.Duration // CreateContainer asked → StartContainer answered
}

// The messages are containerd's CRI server at level info
// (internal/cri/server/{sandbox_run,container_create,container_start}.go and its instrumented service).
var (
	reTime    = regexp.MustCompile(`time="?([0-9T:.Z+-]+)"?`)
	reSandbox = regexp.MustCompile(`RunPodSandbox for (?:&PodSandboxMetadata\{|name:)\\*"?Name:?([^,"\\ ]+)|RunPodSandbox for .*?[nN]ame:\\*"?([a-z0-9.-]+)`)
	reReturns = regexp.MustCompile(`returns sandbox id \\*"([0-9a-f]{64})`)
	reCreate  = regexp.MustCompile(`CreateContainer within sandbox \\*"([0-9a-f]{64})\\*" for container`)
	reCreated = regexp.MustCompile(`CreateContainer within sandbox \\*"([0-9a-f]{64})\\*" for .* returns container id \\*"([0-9a-f]{64})`)
	reStarted = regexp.MustCompile(`StartContainer for \\*"([0-9a-f]{64})\\*" returns successfully`)
)

// readSpans collects the spans of Pods by name from containerd's log lines.
func readSpans(in io.Reader) map[string]spans {
	pods := map[string]spans{}
	asked := map[string]time.Time{}   // by Pod name
	podOf := map[string]string{}      // sandbox id → Pod name
	created := map[string]time.Time{} // sandbox id → CreateContainer asked
	sandboxOf := map[string]string{}  // container id → sandbox id
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 64<<10), 1<<20)
	for scan.Scan() {
		line := scan.Text()
		at, ok := logTime(line)
		if !ok {
			continue
		}
		if m := reSandbox.FindStringSubmatch(line); m != nil {
			pod := m[1] + m[2]
			if r := reReturns.FindStringSubmatch(line); r != nil {
				podOf[r[1]] = pod
				s := pods[pod]
				s.sandbox = at.Sub(asked[pod])
				pods[pod] = s
			} else {
				asked[pod] = at
			}
			continue
		}
		if m := reCreated.FindStringSubmatch(line); m != nil {
			sandboxOf[m[2]] = m[1]
		} else if m := reCreate.FindStringSubmatch(line); m != nil {
			created[m[1]] = at
		} else if m := reStarted.FindStringSubmatch(line); m != nil {
			sandbox := sandboxOf[m[1]]
			pod := podOf[sandbox]
			s := pods[pod]
			s.container = at.Sub(created[sandbox])
			pods[pod] = s
		}
	}
	return pods
}

func logTime(line string) (time.Time, bool) {
	m := reTime.FindStringSubmatch(line)
	if m == nil {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSuffix(m[1], `"`))
	return at, err == nil
}
