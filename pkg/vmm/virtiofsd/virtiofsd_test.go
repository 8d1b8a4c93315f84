package virtiofsd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandOfKatasArguments(t *testing.T) {
	got, err := Command("/b", []string{"--syslog", "--cache=auto", "--shared-dir=/run/kata-containers/shared/sandboxes/x/shared", "--fd=3",
		"--thread-pool-size=1", "--announce-submounts"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/b/qemu/lib/ld-linux-x86-64.so.2", "--library-path", "/b/qemu/lib", "--preload", "/b/qemu/lib/append.so",
		"/b/qemu/bin/virtiofsd",
		"-f", "--rlimit-nofile=0", "-o", "modcaps=-mknod:-setfcap", "-o", "cache=auto", "-o", "source=/run/kata-containers/shared/sandboxes/x/shared", "--fd=3",
		"--thread-pool-size=1", "-o", "announce_submounts"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Command (-want +got):\n%s", diff)
	}
}

func TestTranslate(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string // behind the ever same beginning and --shared-dir; nil for an error
	}{
		{name: "no cache", args: []string{"--cache=never"}, want: []string{"-o", "cache=none"}},
		{name: "metadata cache is the nearest there is", args: []string{"--cache", "metadata"}, want: []string{"-o", "cache=auto"}},
		{name: "unknown cache mode", args: []string{"--cache=some"}},
		{name: "options in the old form pass", args: []string{"-o", "xattr,flock"}, want: []string{"-o", "xattr,flock"}},
		{name: "always confined", args: []string{"--sandbox=none"}, want: []string{"-o", "sandbox=chroot"}},
		{name: "own confinement is not chosen", args: []string{"--seccomp=none", "--inode-file-handles=never"}, want: []string{}},
		{name: "capabilities are not chosen", args: []string{"--modcaps=+sys_admin"}},
		{name: "capabilities are not chosen in the old form", args: []string{"-o", "modcaps=+mknod"}},
		{name: "unknown argument is named", args: []string{"--readonly"}},
		{name: "unknown argument with a value", args: []string{"--colour=red"}},
		{name: "value is missing", args: []string{"--cache"}},
		{name: "standard output is no socket", args: []string{"--fd=1"}},
		{name: "a comma would separate options", args: []string{"--xattrmap=a,b"}},
		{name: "a comma in what is confined", args: []string{"--sandbox=chroot,source=/"}},
		{name: "what is shared is said once", args: []string{"--shared-dir=/"}},
		{name: "what is shared is not said in the old form", args: []string{"-o", "xattr,source=/"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Translate(append([]string{"--shared-dir=/s"}, tt.args...))
			if (err != nil) != (tt.want == nil) {
				t.Fatalf("Translate = %q, %v", got, err)
			}
			if err != nil {
				return
			}
			want := append([]string{"-f", "--rlimit-nofile=0", "-o", "modcaps=-mknod:-setfcap", "-o", "source=/s"}, tt.want...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Translate (-want +got):\n%s", diff)
			}
		})
	}
	if got, err := Translate([]string{"--cache=auto"}); err == nil {
		t.Errorf("Translate without a folder = %q, want an error", got)
	}
}
