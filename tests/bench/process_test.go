package main

import (
	"strings"
	"testing"
)

func TestRole(t *testing.T) {
	for line, want := range map[string]string{
		"/b/bin/nodeless server --runc-shim-path=/x/containerd-shim-runc-v2":        "server",
		"/b/bin/nodeless containerd --config /run/nodeless/containerd.toml":         "containerd",
		"/b/bin/containerd-shim-kata-v2 -namespace k8s.io -id a":                    "shim",
		"/b/bin/nodeless-vmm --api-socket /run/vc/vm/a/clh-api.sock":                "vmm",
		"/b/qemu/lib/ld.so --library-path l /b/qemu/bin/qemu-system-x86_64 -M q35":  "qemu",
		"/b/qemu/lib/ld.so --library-path l /b/qemu/bin/virtiofsd --socket-path=/a": "virtiofsd",
		"/bin/sleep 1": "sleep",
	} {
		if got := role(strings.Fields(line)); got != want {
			t.Errorf("role(%q) = %q, want %q", line, got, want)
		}
	}
}
