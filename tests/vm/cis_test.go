package vm_test

import (
	"context"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/preflight"
)

// unmet are the recommendations of the CIS benchmark that a server with default settings does not meet, each with its reason in the answer
// itself, and those about namespaces that other tests use at the same time.
var unmet = regexp.MustCompile(`^(3\.1\.1|5\.3\.1-5\.3\.2|5\.1\.3|5\.1\.5-5\.1\.6|5\.6\.1|5\.6\.4) `)

// TestCISOfARunningServer: what the benchmark asks of a server holds for the one that runs, as it and its kubelet tell.
func TestCISOfARunningServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := shared.Host.Nodeless(ctx, "check", "--cis", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var report preflight.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%d pass, %d warn, %d not applicable", report.Count(preflight.Pass), report.Count(preflight.Warn), report.Count(preflight.NotApplicable))
	if report.Count(preflight.Pass) < 45 {
		t.Errorf("only %d answers pass", report.Count(preflight.Pass))
	}
	for _, r := range report.Results {
		if r.Status == preflight.Fail || r.Status == preflight.Warn && !unmet.MatchString(r.Name) {
			t.Errorf("%s: %s %q", r.Name, r.Status, r.Detail)
		}
	}
}
