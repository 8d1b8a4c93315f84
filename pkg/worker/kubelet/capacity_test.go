package kubelet

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/cadvisor/lib/container"
	"github.com/google/cadvisor/lib/container/raw"
	"github.com/google/cadvisor/lib/watcher"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/nodeless/nodeless/pkg/teardown"
)

// TestOwnCgroupIsKnown: as a service of systemd's the kubelet is in a cgroup of its own, and asks cadvisor for it every few seconds. One
// that cadvisor does not know gives two warnings in the log each time.
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

// TestKernelSettingsOfTheKubelet: uninstall knows which of the kernel's settings the kubelet changes, and to what.
func TestKernelSettingsOfTheKubelet(t *testing.T) {
	known := map[string]string{}
	for _, s := range teardown.KernelSettings() {
		known[s[0]] = s[1]
	}
	for path, want := range map[string]int{ // setupKernelTunables
		sysctl.VMOvercommitMemory: sysctl.VMOvercommitMemoryAlways, sysctl.VMPanicOnOOM: sysctl.VMPanicOnOOMInvokeOOMKiller,
		sysctl.KernelPanic: sysctl.KernelPanicRebootTimeout, sysctl.KernelPanicOnOops: sysctl.KernelPanicOnOopsAlways,
		sysctl.RootMaxKeys: sysctl.RootMaxKeysSetting, sysctl.RootMaxBytes: sysctl.RootMaxBytesSetting,
	} {
		if known[path] != strconv.Itoa(want) {
			t.Errorf("%s is known as %q, the kubelet sets %d", path, known[path], want)
		}
	}
}
