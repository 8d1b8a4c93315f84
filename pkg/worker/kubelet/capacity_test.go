package kubelet

import (
	"slices"
	"testing"

	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/container/raw"
	"github.com/google/cadvisor/lib/watcher"
)

// TestOwnCgroupIsKnown: as a service of systemd's the kubelet is in a cgroup of its own, and asks cadvisor for it every few seconds. One that
// cadvisor does not know gives two warnings in the log each time.
func TestOwnCgroupIsKnown(t *testing.T) {
	const pods, unit = "/nodeless/kubepods", "/system.slice/nodeless.service"
	for own, want := range map[string][]string{unit: {pods, unit}, "/": {pods}, "": {pods}} {
		if got := askedFor(pods, own); !slices.Equal(got, want) {
			t.Errorf("in %q: cadvisor is told of %q, want %q", own, got, want)
		}
	}
	t.Cleanup(container.ClearContainerHandlerFactories)
	for _, tt := range []struct {
		roots []string
		known bool
	}{{[]string{pods}, false}, {askedFor(pods, unit), true}} {
		container.ClearContainerHandlerFactories()
		if err := raw.Register(nil, nil, container.MetricSet{}, tt.roots); err != nil {
			t.Skipf("skipped: cadvisor sees no cgroups here: %v", err)
		}
		_, known, err := container.GetReorderedFactoryList(watcher.Raw)[0].CanHandleAndAccept(unit)
		if err != nil || known != tt.known {
			t.Errorf("with the roots %q cadvisor takes %s: %t, %v, want %t", tt.roots, unit, known, err, tt.known)
		}
	}
}
