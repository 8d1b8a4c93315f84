// Package install runs install.sh against folders of its own, the way an operator would.
//
// systemctl is a recording double: these tests must not start services on the machine that runs them, and most machines
// that run them have no systemd. Everything else is real: the script, the shell, the files, curl or wget, an HTTP server.
package install

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program stands for the nodeless file; the script never runs it.
const program = "#!/bin/sh\necho nodeless\n"

// systemctl writes its arguments down; is-active says no until a start was recorded, is-system-running what $SYSTEMD says.
const systemctl = `#!/bin/sh
if [ "$1" = is-system-running ]; then echo "${SYSTEMD:-running}"; exit; fi
echo "$*" >>"$SYSTEMCTL_LOG"
[ "$1" != is-active ] || grep -q '^restart' "$SYSTEMCTL_LOG"
`

// machine is a scratch root for the script.
type machine struct {
	t               *testing.T
	dir, bin, units string
	path            []string // folders of commands
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: install.sh insists on root")
	}
	dir := t.TempDir()
	m := &machine{t: t, dir: dir, bin: filepath.Join(dir, "bin"), units: filepath.Join(dir, "systemd")}
	m.path = []string{filepath.Join(dir, "double"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	m.write("double/systemctl", systemctl, 0o755)
	return m
}

// write makes a file below the scratch root.
func (m *machine) write(name, text string, mode os.FileMode) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// release puts the program and its checksum into the scratch root.
func (m *machine) release(text string) string {
	m.t.Helper()
	path := m.write("download/nodeless", text, 0o644)
	m.write("download/nodeless.sha256", sum(text)+"  nodeless\n", 0o644)
	return path
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// result is one run of the script.
type result struct {
	output string
	failed bool
	calls  []string // of systemctl, in this run
}

// run runs the script with env on top of a bare environment.
func (m *machine) run(env map[string]string, args ...string) result {
	m.t.Helper()
	script, err := filepath.Abs("../../install.sh")
	if err != nil {
		m.t.Fatal(err)
	}
	log := m.write("systemctl.log", "", 0o644)
	if env["ACTIVE"] == "true" {
		m.write("systemctl.log", "restart (earlier)\n", 0o644)
	}
	cmd := exec.Command("sh", append([]string{script}, args...)...)
	cmd.Env = []string{
		"PATH=" + strings.Join(m.path, ":"), "SYSTEMCTL_LOG=" + log,
		"NODELESS_BIN_DIR=" + m.bin, "NODELESS_SYSTEMD_DIR=" + m.units, "NODELESS_CONFIG_DIR=" + filepath.Join(m.dir, "etc"),
	}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	recorded, rerr := os.ReadFile(log)
	if rerr != nil {
		m.t.Fatal(rerr)
	}
	r := result{output: out.String(), failed: err != nil}
	for _, line := range strings.Split(strings.TrimSpace(string(recorded)), "\n") {
		if line != "" && !strings.HasSuffix(line, "(earlier)") {
			r.calls = append(r.calls, line)
		}
	}
	return r
}

func (m *machine) read(path string) string {
	m.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// nothing fails the test if the script left anything behind.
func (m *machine) nothing() {
	m.t.Helper()
	for _, dir := range []string{m.bin, m.units, filepath.Join(m.dir, "etc")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			m.t.Fatal(err)
		}
		for _, e := range entries {
			m.t.Errorf("left behind: %s/%s", dir, e.Name())
		}
	}
}

func (m *machine) mode(path string) os.FileMode {
	m.t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		m.t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestFreshInstallFromLocalFile(t *testing.T) {
	m := newMachine(t)
	r := m.run(map[string]string{
		"NODELESS_INSTALL_FILE": m.release(program), "NODELESS_NODE_NAME": "edge-1", "NODELESS_KUBELET_ARG": `a="b c" $d`,
	}, "server", "--cluster-domain", "50% $HOME")
	if r.failed {
		t.Fatal(r.output)
	}
	if got := m.read(filepath.Join(m.bin, "nodeless")); got != program || m.mode(filepath.Join(m.bin, "nodeless")) != 0o755 {
		t.Errorf("program = %q, mode %o", got, m.mode(filepath.Join(m.bin, "nodeless")))
	}
	unit := m.read(filepath.Join(m.units, "nodeless.service"))
	for _, want := range []string{
		"Type=notify\n", "KillMode=process\n", "Delegate=yes\n", "LimitNOFILE=1048576\n", "EnvironmentFile=-" + m.units + "/nodeless.service.env\n",
		"ExecStart=" + m.bin + `/nodeless "server" "--cluster-domain" "50%% $$HOME"` + "\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit has no %q:\n%s", want, unit)
		}
	}
	env := filepath.Join(m.units, "nodeless.service.env")
	if got, want := m.read(env), "NODELESS_KUBELET_ARG=\"a=\\\"b c\\\" \\$d\"\nNODELESS_NODE_NAME=\"edge-1\"\n"; got != want {
		t.Errorf("environment file = %q, want %q", got, want)
	}
	if m.mode(env) != 0o600 {
		t.Errorf("environment file has mode %o", m.mode(env))
	}
	if want := []string{"daemon-reload", "enable nodeless", "restart nodeless"}; !slices.Equal(r.calls, want) {
		t.Errorf("systemctl = %q, want %q", r.calls, want)
	}
	if _, err := os.Lstat(filepath.Join(m.bin, "kubectl")); err == nil {
		t.Error("kubectl was linked although nobody asked")
	}
	if got, want := m.read(filepath.Join(m.dir, "etc/installed")), fmt.Sprintf("%s/nodeless\n%s/nodeless.service\n%[2]s/nodeless.service.env\n", m.bin, m.units); got != want {
		t.Errorf("record = %q, want %q", got, want)
	}
	m.noTemporaryFiles()
}

func (m *machine) noTemporaryFiles() {
	m.t.Helper()
	for _, dir := range []string{m.bin, m.units, filepath.Join(m.dir, "etc")} {
		if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
			m.t.Errorf("temporary files left: %q, %v", left, err)
		}
	}
}

func TestSecondRunChangesNothing(t *testing.T) {
	m := newMachine(t)
	env := map[string]string{"NODELESS_INSTALL_FILE": m.release(program), "NODELESS_EXEC": "server --max-pods 20"}
	if r := m.run(env); r.failed {
		t.Fatal(r.output)
	}
	before, err := os.Stat(filepath.Join(m.bin, "nodeless"))
	if err != nil {
		t.Fatal(err)
	}
	env["ACTIVE"] = "true"
	r := m.run(env)
	if r.failed || !strings.Contains(r.output, "nothing has changed") {
		t.Fatalf("second run: %s", r.output)
	}
	after, err := os.Stat(filepath.Join(m.bin, "nodeless"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the program was replaced although it is the same (%v)", err)
	}
	if slices.Contains(r.calls, "restart nodeless") {
		t.Errorf("the service was restarted although nothing changed: %q", r.calls)
	}
	env["NODELESS_INSTALL_FILE"] = m.release(program + "# newer\n")
	if r := m.run(env); r.failed || !slices.Contains(r.calls, "restart nodeless") {
		t.Errorf("a new program must restart the service: %q\n%s", r.calls, r.output)
	}
	delete(env, "NODELESS_EXEC")
	if r := m.run(env); r.failed || !slices.Contains(r.calls, "restart nodeless") {
		t.Errorf("a new command must restart the service: %q\n%s", r.calls, r.output)
	}
	m.noTemporaryFiles()
}

func TestRefusalsLeaveNothingBehind(t *testing.T) {
	tests := []struct {
		name string
		env  func(m *machine) map[string]string
		want []string
	}{
		{name: "wrong checksum", env: func(m *machine) map[string]string {
			return map[string]string{"NODELESS_INSTALL_FILE": m.release(program), "NODELESS_SHA256": sum("other")}
		}, want: []string{"error: wrong checksum", "hint: "}},
		{name: "no checksum", env: func(m *machine) map[string]string {
			return map[string]string{"NODELESS_INSTALL_FILE": m.write("alone/nodeless", program, 0o644)}
		}, want: []string{"no checksum", "NODELESS_SHA256"}},
		{name: "missing file", env: func(m *machine) map[string]string {
			return map[string]string{"NODELESS_INSTALL_FILE": "/nonexistent/nodeless"}
		}, want: []string{"error: file /nonexistent/nodeless is not there", "hint: "}},
		{name: "dead URL", env: func(m *machine) map[string]string {
			s := httptest.NewServer(http.NotFoundHandler())
			m.t.Cleanup(s.Close)
			return map[string]string{"NODELESS_URL": s.URL + "/nodeless"}
		}, want: []string{"error: cannot fetch http://", "NODELESS_INSTALL_FILE"}},
		{name: "nothing to keep", env: func(*machine) map[string]string {
			return map[string]string{"NODELESS_SKIP_DOWNLOAD": "true"}
		}, want: []string{"is not there"}},
		{name: "white space in a folder", env: func(m *machine) map[string]string {
			return map[string]string{"NODELESS_INSTALL_FILE": m.release(program), "NODELESS_BIN_DIR": m.dir + "/a b"}
		}, want: []string{"white space"}},
		{name: "another machine", env: func(m *machine) map[string]string {
			m.write("double/uname", "#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n", 0o755)
			return map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}
		}, want: []string{"this machine is a riscv64"}},
		{name: "not root", env: func(m *machine) map[string]string {
			m.write("double/id", "#!/bin/sh\necho 1000\n", 0o755)
			return map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}
		}, want: []string{"uid 1000 is not root", "sudo"}},
		{name: "full disk", env: func(m *machine) map[string]string {
			m.write("double/df", "#!/bin/sh\necho Filesystem 1024-blocks Used Available; echo /dev/x 100 90 10240\n", 0o755)
			return map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}
		}, want: []string{"10 MiB free"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			r := m.run(tt.env(m))
			if !r.failed {
				t.Fatalf("it went through:\n%s", r.output)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.output, want) {
					t.Errorf("output has no %q:\n%s", want, r.output)
				}
			}
			if len(r.calls) > 0 {
				t.Errorf("systemctl = %q", r.calls)
			}
			m.nothing()
		})
	}
}

func TestRefusalKeepsTheInstalledProgram(t *testing.T) {
	m := newMachine(t)
	if r := m.run(map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}); r.failed {
		t.Fatal(r.output)
	}
	if r := m.run(map[string]string{"NODELESS_INSTALL_FILE": m.release("damaged"), "NODELESS_SHA256": sum("new")}); !r.failed {
		t.Fatal("a wrong checksum went through")
	}
	if got := m.read(filepath.Join(m.bin, "nodeless")); got != program {
		t.Errorf("program = %q", got)
	}
	m.noTemporaryFiles()
}

func TestInstallFromURL(t *testing.T) {
	for _, tool := range []string{"curl", "wget"} {
		t.Run(tool, func(t *testing.T) {
			m := newMachine(t)
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("skipped: no %s here", tool)
			}
			m.only(tool)
			m.release(program)
			s := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(m.dir, "download"))))
			defer s.Close()
			r := m.run(map[string]string{"NODELESS_URL": s.URL + "/nodeless"})
			if r.failed {
				t.Fatal(r.output)
			}
			if got := m.read(filepath.Join(m.bin, "nodeless")); got != program {
				t.Errorf("program = %q", got)
			}
			m.noTemporaryFiles()
		})
	}
}

// only leaves one of the download tools (and what else the script needs) in the PATH.
func (m *machine) only(tool string) {
	m.t.Helper()
	for _, name := range []string{tool, "uname", "id", "sha256sum", "mkdir", "df", "awk", "mktemp", "rm", "cat", "chmod", "cmp", "mv", "sed", "env", "sort", "tr", "readlink", "ln", "cp", "dirname", "grep", "sh"} {
		path, err := exec.LookPath(name)
		if err != nil {
			m.t.Skipf("skipped: no %s here", name)
		}
		if err := os.Symlink(path, filepath.Join(m.dir, "double", name)); err != nil {
			m.t.Fatal(err)
		}
	}
	m.path = m.path[:1]
}

func TestFileBesideTheScript(t *testing.T) {
	m := newMachine(t)
	script, err := os.ReadFile("../../install.sh")
	if err != nil {
		t.Fatal(err)
	}
	m.release(program)
	beside := m.write("download/install.sh", string(script), 0o755)
	cmd := exec.Command("sh", beside)
	cmd.Env = []string{"PATH=" + strings.Join(m.path, ":"), "SYSTEMCTL_LOG=" + m.write("systemctl.log", "", 0o644), "NODELESS_BIN_DIR=" + m.bin,
		"NODELESS_SYSTEMD_DIR=" + m.units, "NODELESS_CONFIG_DIR=" + filepath.Join(m.dir, "etc")}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := m.read(filepath.Join(m.bin, "nodeless")); got != program {
		t.Errorf("program = %q", got)
	}
}

func TestLinks(t *testing.T) {
	m := newMachine(t)
	env := map[string]string{"NODELESS_INSTALL_FILE": m.release(program), "NODELESS_SYMLINK": "create"}
	m.write("bin/kubectl", "somebody else's", 0o755)
	if r := m.run(env); r.failed {
		t.Fatal(r.output)
	}
	if got := m.read(filepath.Join(m.bin, "kubectl")); got != "somebody else's" {
		t.Errorf("kubectl was overwritten: %q", got)
	}
	if got, err := os.Readlink(filepath.Join(m.bin, "crictl")); err != nil || got != "nodeless" {
		t.Errorf("crictl -> %q, %v", got, err)
	}
	delete(env, "NODELESS_SYMLINK")
	if r := m.run(env); r.failed {
		t.Fatal(r.output)
	}
	if got := m.read(filepath.Join(m.dir, "etc/installed")); !strings.Contains(got, "/crictl\n") || strings.Contains(got, "/kubectl\n") {
		t.Errorf("the record must keep our links, and only ours:\n%s", got)
	}
}

func TestServiceChoices(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want []string
	}{
		{name: "skip start", env: map[string]string{"NODELESS_SKIP_START": "true"}, want: []string{"daemon-reload", "enable nodeless"}},
		{name: "systemd is not the init", env: map[string]string{"SYSTEMD": "offline"}, want: []string{"enable nodeless"}},
		{name: "skip enable", env: map[string]string{"NODELESS_SKIP_ENABLE": "true"}, want: []string{"daemon-reload"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			tt.env["NODELESS_INSTALL_FILE"] = m.release(program)
			if r := m.run(tt.env); r.failed || !slices.Equal(r.calls, tt.want) {
				t.Errorf("systemctl = %q, want %q\n%s", r.calls, tt.want, r.output)
			}
		})
	}
}

func TestWithoutSystemd(t *testing.T) {
	m := newMachine(t)
	m.only("curl")
	if err := os.Remove(filepath.Join(m.dir, "double/systemctl")); err != nil {
		t.Fatal(err)
	}
	r := m.run(map[string]string{"NODELESS_INSTALL_FILE": m.release(program)}, "--max-pods", "20")
	if r.failed || !strings.Contains(r.output, m.bin+"/nodeless server --max-pods 20") {
		t.Errorf("output:\n%s", r.output)
	}
	if _, err := os.Stat(m.units); err == nil {
		t.Error("a unit folder was made")
	}
}
