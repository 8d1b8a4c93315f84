package teardown

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kernel is a host with these settings, as a server finds or leaves it.
func kernel(t *testing.T, root, boot string, values map[string]string) {
	t.Helper()
	put := map[string]string{"proc/sys/kernel/random/boot_id": boot + "\n"}
	for path, value := range values {
		put["proc/sys/"+path] = value + "\n"
	}
	for path, text := range put {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKernelSettingsGoBack: uninstall puts back what a server has changed since the boot and nobody else has since.
func TestKernelSettingsGoBack(t *testing.T) {
	before := map[string]string{"net/ipv4/ip_forward": "0", "net/ipv4/conf/all/accept_redirects": "1", "vm/overcommit_memory": "0",
		"kernel/panic": "0", "kernel/panic_on_oops": "1", "net/ipv4/neigh/default/gc_thresh3": "1024"}
	during := map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/accept_redirects": "0", "vm/overcommit_memory": "1",
		"kernel/panic": "10", "kernel/panic_on_oops": "1", "net/ipv4/neigh/default/gc_thresh3": "32768"}
	operators := map[string]string{"kernel/panic": "30"} // who has changed it since
	for _, tt := range []struct {
		name, bootAtEnd string
		want            map[string]string // below /proc/sys afterwards
	}{
		{name: "the same boot", bootAtEnd: "boot-1", want: map[string]string{"net/ipv4/ip_forward": "0", "net/ipv4/conf/all/accept_redirects": "1",
			"vm/overcommit_memory": "0", "kernel/panic": "30", "kernel/panic_on_oops": "1", "net/ipv4/neigh/default/gc_thresh3": "1024"}},
		{name: "another boot", bootAtEnd: "boot-2", want: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/accept_redirects": "0",
			"vm/overcommit_memory": "1", "kernel/panic": "30", "kernel/panic_on_oops": "1", "net/ipv4/neigh/default/gc_thresh3": "32768"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			in := Installation{Host: Host{Root: root}, RunDir: "/run/nodeless"}
			kernel(t, root, "boot-1", before)
			remember := func() {
				t.Helper()
				if err := RememberKernel(root, in.RunDir); err != nil {
					t.Fatal(err)
				}
			}
			remember()
			kernel(t, root, "boot-1", during)
			remember() // a second start, which finds what the first has set
			kernel(t, root, tt.bootAtEnd, operators)
			names, err := in.findKernel(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := in.removeKernel(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, changed := map[string]string{}, 0
			for path := range before {
				raw, err := os.ReadFile(filepath.Join(root, "proc/sys", path))
				if err != nil {
					t.Fatal(err)
				}
				if got[path] = strings.TrimSpace(string(raw)); got[path] == before[path] && got[path] != during[path] {
					changed++
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("settings afterwards (-want +got):\n%s", diff)
			}
			if len(names) != changed {
				t.Errorf("told of %q, and %d were put back", names, changed)
			}
			if again, err := in.findKernel(t.Context()); err != nil || len(again) != 0 {
				t.Errorf("found after that: %q, %v", again, err)
			}
		})
	}
	if names, err := (Installation{Host: Host{Root: t.TempDir()}, RunDir: "/run/nodeless"}).findKernel(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("where no server was: %q, %v", names, err)
	}
}

// TestForwardingGoesBackFirst: the kernel sets the redirects along with it.
func TestForwardingGoesBackFirst(t *testing.T) {
	order := map[string]int{}
	for i, s := range KernelSettings() {
		order[s[0]] = i + 1
	}
	if order["net/ipv4/ip_forward"] != 1 || order["net/ipv4/conf/all/accept_redirects"] < 2 {
		t.Errorf("the order is %v", slices.Sorted(maps.Keys(order)))
	}
}
