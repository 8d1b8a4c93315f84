package main

import (
	"context"
	"strings"
	"testing"
)

func TestParseTakesKatasArguments(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		socket  string
		verbose bool
		wantErr string
	}{
		{name: "as Kata starts it", args: []string{"--api-socket", "/run/vc/vm/x/clh-api.sock"}, socket: "/run/vc/vm/x/clh-api.sock"},
		{name: "debug", args: []string{"--api-socket", "/s", "-vvv", "--seccomp", "false"}, socket: "/s", verbose: true},
		{name: "one word", args: []string{"--api-socket=path=/s", "--seccomp=true"}, socket: "/s"},
		{name: "no socket", wantErr: "--api-socket is missing"},
		{name: "no value", args: []string{"--api-socket"}, wantErr: "needs a value"},
		{name: "unknown", args: []string{"--api-socket", "/s", "--kernel", "k"}, wantErr: `"--kernel"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts, _, err := parse(tt.args)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("parse = %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || opts.APISocket != tt.socket || opts.Verbose != tt.verbose {
				t.Errorf("parse = %+v, %v", opts, err)
			}
		})
	}
}

func TestMissingConfigurationIsExplained(t *testing.T) {
	var out, errs strings.Builder
	code := run(context.Background(), []string{"--api-socket", "/s"}, 0, func(string) string { return "" }, &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "NODELESS_VMM_CONFIG") {
		t.Errorf("run = %d, %q", code, errs.String())
	}
	if code := run(context.Background(), []string{"--version"}, 0, nil, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "nodeless-vmm v") {
		t.Errorf("--version = %d, %q", code, out.String())
	}
}
