package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Layers, from the leaves up. A package imports only lower layers, and inside a layer only what sibling allows.
const (
	leaf = iota
	guest
	mechanism
	domain
	role
	command
	program
)

// layers gives each folder its layer; the longest match counts. A new package must be entered here.
var layers = map[string]int{
	"cmd":     program,
	"pkg/cli": command,

	"pkg/server": role, "pkg/worker": role,

	"pkg/admission": domain, "pkg/meter": domain, "pkg/bill": domain,

	"pkg/vmm": mechanism, "pkg/netdev": mechanism, "pkg/cni": mechanism, "pkg/kube": mechanism,
	"pkg/pki": mechanism, "pkg/proc": mechanism, "pkg/bundle": mechanism, "pkg/preflight": mechanism, "pkg/teardown": mechanism, "pkg/erofs": mechanism,
	"pkg/users": mechanism, "pkg/agentmux": mechanism, "pkg/ociimage": mechanism, "pkg/syslogd": mechanism, "pkg/registries": mechanism, "pkg/sqlfile": mechanism, "pkg/memcg": mechanism, "pkg/converter": mechanism,
	"pkg/jail": mechanism, "pkg/vfio": mechanism, contract + "/owners": mechanism, contract + "/rights": mechanism,

	"pkg/guest": guest,

	"pkg/podsize": leaf, "pkg/price": leaf, "pkg/cidr": leaf, "pkg/run": leaf, "pkg/hint": leaf, "pkg/datadir": leaf, "pkg/atomicfile": leaf,
	"pkg/version": leaf, "pkg/api": leaf, "pkg/fair": leaf, "pkg/unixsocket": leaf, "pkg/sandboxrecord": leaf, contract: leaf,

	"manifests": leaf,                        // embedded YAML
	"bundle":    program, "scripts": program, // build-time programs
	"tests": program,
}

// guestMay lists what the guest takes from the host mechanisms: the channel that both ends speak.
var guestMay = []string{"pkg/agentmux"}

// place finds the layer of a folder and the entry of layers that it stands under.
func place(pkg string) (layer int, entry string, ok bool) {
	for dir, l := range layers {
		if under(pkg, dir) && len(dir) > len(entry) {
			layer, entry, ok = l, dir, true
		}
	}
	return layer, entry, ok
}

// TestLayersAreOfFolders: what has gone is entered no more.
func TestLayersAreOfFolders(t *testing.T) {
	for dir := range layers {
		if info, err := os.Stat(filepath.Join(root(t), dir)); err != nil || !info.IsDir() {
			t.Errorf("layers has %s, and there is no such folder", dir)
		}
	}
}

func TestImportDirection(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.ownModule() || under(f.pkg, "tests") {
			continue
		}
		layer, entry, ok := place(f.pkg)
		if !ok {
			t.Errorf("%s: package %s has no layer; enter it in tests/rules/imports_test.go", f.path, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			to, own := strings.CutPrefix(imp, module+"/")
			if !own || under(to, f.pkg) || under(f.pkg, to) && !f.test && to == entry {
				continue
			}
			if why := forbidden(f, layer, entry, to); why != "" {
				t.Errorf("%s imports %s: %s", f.path, to, why)
			}
		}
	}
}

// forbidden says why the package of f may not import to, or "".
func forbidden(f goFile, layer int, entry, to string) string {
	toLayer, toEntry, ok := place(to)
	switch {
	case !ok:
		return "it has no layer"
	case f.test && (under(to, "tests") || under(to, f.pkg)):
		return ""
	case layer == guest && toLayer == mechanism && contains(guestMay, toEntry):
		return ""
	case toLayer == guest && entry != toEntry && !under(f.pkg, "cmd"):
		return "only the program inside the microVM uses it"
	case toLayer > layer:
		return "it is of a higher layer"
	case toLayer < layer || layer == leaf || layer == mechanism || layer == guest || layer == command:
		return ""
	case entry != toEntry:
		return "roles, domains and programs do not import a sibling"
	case layer == role && siblings(entry, f.pkg, to):
		return "components of a role do not import each other; the role wires them"
	}
	return ""
}

// siblings tells whether a and b are in different folders right below entry.
func siblings(entry, a, b string) bool {
	first := func(p string) string {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, entry), "/"), "/")
		return name
	}
	return first(a) != "" && first(b) != "" && first(a) != first(b)
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// owners lists the heavy dependencies and the folders that may import them. The first match counts.
var owners = []struct {
	prefix string
	dirs   []string
}{
	{"k8s.io/kubernetes", []string{"pkg/server", "pkg/worker", "pkg/cli"}},
	{"k8s.io/kubectl", []string{"pkg/cli"}},
	{"github.com/k3s-io/kine", []string{"pkg/server/datastore"}},
	{"github.com/coredns", []string{"pkg/server/dns"}},
	{"sigs.k8s.io/metrics-server", []string{"pkg/server/metrics"}},
	{"github.com/robfig/cron", []string{"pkg/server/cronscaler"}},
	{"github.com/containerd/containerd/v2/cmd", []string{"pkg/worker/containerd"}},
	{"github.com/containerd/containerd/v2/plugins", []string{"pkg/worker/containerd"}},
	{"github.com/containerd/containerd/v2/internal", []string{"pkg/worker/containerd"}},
	{"github.com/containerd/containerd/v2", []string{"pkg/worker/containerd"}},
	{"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols", []string{"pkg/guest", "pkg/vmm"}},
	{"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/cloud-hypervisor", []string{"pkg/vmm"}},
	{"github.com/kata-containers/kata-containers", []string{"pkg/guest"}},
	{"github.com/opencontainers/runc", []string{"pkg/guest", "cmd/nodeless-guest"}},
	{"github.com/coreos/go-iptables", []string{"pkg/netdev"}},
	{"github.com/urfave/cli", []string{"pkg/cli"}},
	{"filippo.io/age", []string{"pkg/cli/backup"}},
	{"github.com/mattn/go-sqlite3", []string{"pkg/server/datastore", "pkg/sqlfile"}},
	{"go.etcd.io/etcd/server", []string{"tests"}}, // the yardstick of the datastore benchmark
}

func TestHeavyDependenciesHaveOneOwner(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.ownModule() || under(f.pkg, "tests") || f.test && under(f.pkg, "pkg/vmm") {
			continue // tests may drive a part from its other end
		}
		for _, imp := range f.imports {
			for _, o := range owners {
				if !under(imp, o.prefix) {
					continue
				}
				allowed := false
				for _, dir := range o.dirs {
					allowed = allowed || under(f.pkg, dir)
				}
				if !allowed {
					t.Errorf("%s imports %s, which belongs to %s", f.path, imp, strings.Join(o.dirs, ", "))
				}
				break
			}
		}
	}
}

// TestLeavesArePure keeps processes and the network out of the leaves.
func TestLeavesArePure(t *testing.T) {
	for _, f := range goFiles(t) {
		layer, _, ok := place(f.pkg)
		if !ok || layer != leaf || f.test {
			continue
		}
		for _, imp := range f.imports {
			if imp == "os/exec" || imp == "net/http" || imp == "syscall" || strings.HasPrefix(imp, "golang.org/x/sys") {
				t.Errorf("%s imports %s: a leaf does not touch the host", f.path, imp)
			}
		}
	}
}
