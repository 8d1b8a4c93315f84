package uninstall_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/cli/uninstall"
	"github.com/nodeless/nodeless/pkg/datadir"
)

// serveEnv names a lock, and listenEnv a socket.
const (
	serveEnv  = "UNINSTALL_TEST_SERVE"
	listenEnv = "UNINSTALL_TEST_LISTEN"
)

// TestMain makes the test binary a process that holds a lock, and may listen on a socket, until SIGTERM.
func TestMain(m *testing.M) {
	path := os.Getenv(serveEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if _, err := lock.Acquire(path); err != nil {
		os.Exit(1)
	}
	if socket := os.Getenv(listenEnv); socket != "" {
		if _, err := net.Listen("unix", socket); err != nil {
			os.Exit(1)
		}
	}
	fmt.Println("held")
	<-term
}

// install lays out what a server and install.sh leave, and some files of others.
func install(t *testing.T) (string, uninstall.Config) {
	t.Helper()
	root, err := os.MkdirTemp("", "uninstall-") // a short name, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{
		"data/bundle/abc/bin/nodeless", "data/server/db/state.db", "data/agent/images/x.tar", "data/server.lock", "data/mine.txt",
		"run/containerd/containerd.sock", "run/cni/net.d/x", "etc/kubeconfig", "etc/config.yaml", "bin/nodeless", "bin/kubectl", "systemd/nodeless.service",
		"host/var/lib/cni/results/nodeless-1-eth0", "host/var/lib/cni/results/other-1",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nodeless", filepath.Join(root, "bin/ctr")); err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(root, "host/var/log/containers")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"ours.log": filepath.Join(root, "data/agent/pod-logs/a/0.log"), "theirs.log": "/var/log/pods/x"} {
		if err := os.Symlink(to, filepath.Join(logs, link)); err != nil {
			t.Fatal(err)
		}
	}
	deadSocket(t, filepath.Join(root, "host/run/syslog"))
	deadSocket(t, filepath.Join(root, "host/var/lib/kubelet/device-plugins/kubelet.sock"))
	record := ""
	for _, name := range []string{"bin/nodeless", "bin/kubectl", "bin/ctr", "systemd/nodeless.service", "systemd/gone"} {
		record += filepath.Join(root, name) + "\n"
	}
	if err := os.WriteFile(filepath.Join(root, "etc/installed"), []byte(record), 0o644); err != nil {
		t.Fatal(err)
	}
	return root, uninstall.Config{
		Data: datadir.Dir(filepath.Join(root, "data")), Run: datadir.RunDir(filepath.Join(root, "run")),
		PodLogs: filepath.Join(root, "data/agent/pod-logs"), Root: filepath.Join(root, "host"), Kubeconfig: filepath.Join(root, "etc/kubeconfig"), Record: filepath.Join(root, "etc/installed"),
	}
}

// deadSocket makes a socket as a killed process leaves it.
func deadSocket(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil { // a datagram socket's file stays
		t.Fatal(err)
	}
}

func left(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func noMounts() ([]string, error) { return nil, nil }

func TestOnlyOursIsRemoved(t *testing.T) {
	tests := []struct {
		name string
		keep bool
		want []string
	}{
		{name: "all", want: []string{"bin/kubectl", "data/mine.txt", "etc/config.yaml", "host/var/lib/cni/results/other-1", "host/var/log/containers/theirs.log"}},
		{name: "keep data", keep: true, want: []string{"bin/kubectl", "data/agent/images/x.tar", "data/mine.txt", "data/server.lock", "data/server/db/state.db", "etc/config.yaml", "host/var/lib/cni/results/other-1", "host/var/log/containers/theirs.log"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, cfg := install(t)
			cfg.KeepData = tt.keep
			items, err := uninstall.Plan(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := uninstall.Remove(items, noMounts); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, left(t, root)); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
			if _, err := os.Stat(filepath.Join(root, "run")); err == nil {
				t.Error("the run folder is left")
			}
		})
	}
}

func TestFoldersGoWhenTheyAreEmpty(t *testing.T) {
	root, cfg := install(t)
	for _, name := range []string{"data/mine.txt", "etc/config.yaml", "host/var/lib/cni/results/other-1", "host/var/log/containers/theirs.log"} {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	items, err := uninstall.Plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := uninstall.Remove(items, noMounts); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "etc", "run", "host/var/lib/cni", "host/var/lib/kubelet", "host/var/log/containers"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}

func TestMountedIsRefused(t *testing.T) {
	root, cfg := install(t)
	items, err := uninstall.Plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(root, "data/agent/images")
	err = uninstall.Remove(items, func() ([]string, error) { return []string{"/", volume}, nil })
	if err == nil || !strings.Contains(err.Error(), volume+" is still mounted") {
		t.Errorf("Remove = %v", err)
	}
	if _, err := os.Stat(filepath.Join(volume, "x.tar")); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

func TestSomebodysRunFolderIsLeftAlone(t *testing.T) {
	root, cfg := install(t)
	cfg.Run = datadir.RunDir(filepath.Join(root, "bin"))
	items, err := uninstall.Plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if item.Path == string(cfg.Run) {
			t.Error("the plan has a folder that is not ours")
		}
	}
}

// serve starts a server.
func serve(t *testing.T, dir datadir.Dir, socket string) *exec.Cmd {
	t.Helper()
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), serveEnv+"="+dir.Lock(), listenEnv+"="+socket)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("server: %q, %v", line, err)
	}
	t.Cleanup(func() { _ = server.Process.Kill() }) // fails when it has ended
	return server
}

// TestSocketsOfARunningServerAreListed: --dry-run asks while the server runs, and uninstall when it has ended.
func TestSocketsOfARunningServerAreListed(t *testing.T) {
	root, cfg := install(t)
	ours, others := filepath.Join(root, "host/var/lib/kubelet/device-plugins/kubelet.sock"), filepath.Join(root, "host/run/syslog")
	for _, path := range []string{ours, others} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", others)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := serve(t, cfg.Data, ours)
	items, err := uninstall.Plan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listed := func(path string) bool {
		return slices.ContainsFunc(items, func(i uninstall.Item) bool { return i.Path == path })
	}
	if !listed(ours) || listed(others) {
		t.Errorf("the server's socket is listed: %t; somebody else's: %t", listed(ours), listed(others))
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestStopWaitsForTheServer(t *testing.T) {
	dir := datadir.Dir(t.TempDir())
	server := serve(t, dir, "")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := uninstall.Stop(ctx, uninstall.Config{Data: dir, Record: "/nonexistent"}); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("the server did not end by itself: %v", err)
	}
	if err := uninstall.Stop(ctx, uninstall.Config{Data: dir, Record: "/nonexistent"}); err != nil {
		t.Errorf("Stop of nothing = %v", err)
	}
}
