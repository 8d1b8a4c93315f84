package virtiofsd

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/jail"
)

func TestCommandOfKatasArguments(t *testing.T) {
	got, err := Command("/b", []string{"--syslog", "--cache=auto", "--shared-dir=/run/kata-containers/shared/sandboxes/x/shared", "--fd=3",
		"--thread-pool-size=1", "--announce-submounts"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/b/qemu/lib/ld-linux-x86-64.so.2", "--library-path", "/b/qemu/lib", "/b/qemu/bin/virtiofsd",
		"--cache=auto", "--shared-dir=/run/kata-containers/shared/sandboxes/x/shared", "--fd=3", "--thread-pool-size=1", "--announce-submounts",
		"--sandbox=none", "--seccomp=kill", "--inode-file-handles=never", "--rlimit-nofile=0", "--modcaps=-mknod:-setfcap"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Command (-want +got):\n%s", diff)
	}
}

func TestNamespacesAreTheJails(t *testing.T) {
	if contract.VirtiofsdNamespaces != jail.Namespaces {
		t.Errorf("the shim starts the daemon in %#x, the jail is made of %#x", contract.VirtiofsdNamespaces, jail.Namespaces)
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		wrong bool
	}{
		{name: "what Kata gives", args: []string{"--cache=never", "--fd=3", "--thread-pool-size=1", "--announce-submounts"}},
		{name: "walls are not chosen", args: []string{"--sandbox=none"}, wrong: true},
		{name: "system calls are not chosen", args: []string{"--seccomp=none"}, wrong: true},
		{name: "capabilities are not chosen", args: []string{"--modcaps=+sys_admin"}, wrong: true},
		{name: "options in the old form", args: []string{"-o", "source=/"}, wrong: true},
		{name: "unknown", args: []string{"--colour=red"}, wrong: true},
		{name: "a value by itself", args: []string{"--cache", "auto"}, wrong: true},
		{name: "standard output is no socket", args: []string{"--fd=1"}, wrong: true},
		{name: "what is shared is said once", args: []string{"--shared-dir=/"}, wrong: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := checked(append([]string{"--shared-dir=/s"}, tt.args...))
			if (err != nil) != tt.wrong {
				t.Errorf("checked = %q, %v; want an error: %v", got, err, tt.wrong)
			}
		})
	}
	for _, args := range [][]string{{"--cache=auto"}, {"--shared-dir=here"}, {"--shared-dir"}} {
		if got, err := checked(args); err == nil {
			t.Errorf("checked(%q) = %q, want an error", args, got)
		}
	}
}

// FuzzArguments gives the wrapper any arguments: they are refused, or the daemon shares the one folder it was told to.
func FuzzArguments(f *testing.F) {
	f.Add("--syslog", "--shared-dir=/run/s", "--fd=3")
	f.Add("--shared-dir=/a", "--shared-dir=/b", "--sandbox=none")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		args := []string{a, b, c}
		out, err := checked(args)
		if err != nil {
			return
		}
		shared := 0
		for _, arg := range out {
			if !slices.Contains(args, arg) {
				t.Errorf("%q becomes %q", args, out)
			}
			if len(arg) > len(sharedDir) && arg[:len(sharedDir)] == sharedDir {
				shared++
			}
		}
		if shared != 1 {
			t.Errorf("%q becomes %q, which shares %d folders", args, out, shared)
		}
	})
}
