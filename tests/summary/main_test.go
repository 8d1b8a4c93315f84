package main

import (
	"bytes"
	"strings"
	"testing"
)

const stream = `{"Action":"run","Package":"p/a","Test":"TestGood"}
{"Action":"output","Package":"p/a","Test":"TestGood","Output":"=== RUN TestGood\n"}
{"Action":"pass","Package":"p/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"p/a","Test":"TestNoKVM","Output":"    a_test.go:3: needs KVM\n"}
{"Action":"output","Package":"p/a","Test":"TestNoKVM","Output":"--- SKIP: TestNoKVM (0.00s)\n"}
{"Action":"skip","Package":"p/a","Test":"TestNoKVM"}
{"Action":"pass","Package":"p/a","Elapsed":0.2}
{"Action":"output","Package":"p/b","Test":"TestBad","Output":"    b_test.go:9: got 1, want 2\n"}
{"Action":"fail","Package":"p/b","Test":"TestBad","Elapsed":0.3}
{"Action":"fail","Package":"p/b","Elapsed":0.4}
{"Action":"output","Package":"p/c","Test":"TestDied","Output":"panic: gone\n"}
{"Action":"fail","Package":"p/c","Elapsed":0.4}
{"Action":"build-output","ImportPath":"p/d","Output":"d.go:1: syntax error\n"}
{"Action":"output","Package":"p/d","Output":"FAIL p/d [build failed]\n"}
{"Action":"fail","Package":"p/d","Elapsed":0}
`

func TestCountsAndReasons(t *testing.T) {
	var out bytes.Buffer
	r, err := summarize(nil, strings.NewReader(stream), &out, false)
	if err != nil {
		t.Fatal(err)
	}
	if r.passed != 1 || r.failed != 3 || r.skipped != 1 {
		t.Errorf("counts = %d, %d, %d; want 1 passed, 3 failed (test, dead package, broken build), 1 skipped", r.passed, r.failed, r.skipped)
	}
	for _, want := range []string{"skip p/a TestNoKVM: a_test.go:3: needs KVM", "got 1, want 2", "panic: gone", "syntax error"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if !strings.HasSuffix(out.String(), "\n1 passed, 3 failed, 1 skipped\n") {
		t.Errorf("last line is not the count:\n%s", out.String())
	}
}

func TestGarbageIsRefused(t *testing.T) {
	if _, err := summarize(nil, strings.NewReader("{\"Action\":"), &bytes.Buffer{}, false); err == nil {
		t.Error("a broken stream was accepted")
	}
}
