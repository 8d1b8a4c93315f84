package cli

import (
	"testing"
	"testing/fstest"
)

// TestRunningConfig: the server that runs is judged by what it was started with, and not by what would be now.
func TestRunningConfig(t *testing.T) {
	proc := fstest.MapFS{
		"77/cmdline": {Data: []byte("/usr/local/bin/nodeless\x00server\x00--data-dir\x00/srv/one\x00--data-dir=/srv/two\x00--kube-apiserver-arg=profiling=true\x00" +
			"--kube-apiserver-arg\x00v=1\x00-https-listen-port=7443\x00")},
		"77/environ": {Data: []byte("PATH=/bin\x00NODELESS_CONFIG=/nonexistent/config.yaml.of.nobody\x00NODELESS_CLUSTER_DOMAIN=example.org\x00")},
	}
	if _, err := runningConfig(proc, 77); err == nil {
		t.Error("a configuration file that was asked for and is not there went unnoticed")
	}
	proc["77/environ"].Data = []byte("PATH=/bin\x00NODELESS_CLUSTER_DOMAIN=example.org\x00")
	cfg, err := runningConfig(proc, 77)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Paths.Data != "/srv/two" || cfg.API.Port != 7443 || cfg.Network.Domain != "example.org" {
		t.Errorf("data dir %s, port %d, domain %s", cfg.Paths.Data, cfg.API.Port, cfg.Network.Domain)
	}
	if got := cfg.Extra.APIServer; len(got) != 2 || got[0] != "profiling=true" || got[1] != "v=1" {
		t.Errorf("arguments of the apiserver = %q", got)
	}
	if _, err := runningConfig(proc, 78); err == nil {
		t.Error("a server that is gone has settings")
	}
}
