package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testbed"
)

// expectRefusal runs a subcommand that must fail soon, with an error that has the words and a hint.
func expectRefusal(t *testing.T, h *testbed.Host, words []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := h.Nodeless(ctx, args...)
	var failed *testbed.CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("nodeless %q: %v, want a refusal", args, err)
	}
	if failed.Code <= 0 {
		t.Errorf("nodeless %q: exit code %d; it must end by itself", args, failed.Code)
	}
	for _, want := range append(words, "error: ", "hint: ") {
		if !strings.Contains(failed.Stderr, want) {
			t.Errorf("nodeless %q says\n%swant %q in it", args, failed.Stderr, want)
		}
	}
	if strings.Contains(failed.Stderr, "panic") || strings.Contains(failed.Stderr, "goroutine ") {
		t.Errorf("nodeless %q crashed:\n%s", args, failed.Stderr)
	}
}

// newHost is a host of its own, for what cannot be tried beside the shared server.
func newHost(t *testing.T, program string) *testbed.Host {
	t.Helper()
	shared.OwnHost(t, "and one without a server")
	h, err := testbed.New(testbed.Options{Program: program})
	if errors.Is(err, testbed.ErrNeeds) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func serverArgs(h *testbed.Host, more ...string) []string {
	return append(testbed.ServerArgs(h.Cgroup), more...)
}

func TestPortInUseIsNamed(t *testing.T) {
	h := newHost(t, "")
	space, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	for _, port := range []int{6443, 10250} {
		t.Run(strconv.Itoa(port), func(t *testing.T) {
			var l net.Listener
			err := space.Do(func(ns.NetNS) (err error) {
				l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			expectRefusal(t, h, []string{strconv.Itoa(port), "in use"}, serverArgs(h)...)
		})
	}
}

func TestDataDirNotWritable(t *testing.T) {
	h := newHost(t, "")
	ctx := context.Background()
	if _, err := h.Exec(ctx, "sh", "-c", "mkdir /run/ro && mount -t tmpfs -o ro tmpfs /run/ro"); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, h, []string{"/run/ro", "read-only"}, serverArgs(h, "--data-dir=/run/ro/data")...)
	expectRefusal(t, h, []string{"/etc/hostname"}, serverArgs(h, "--data-dir=/etc/hostname")...)
}

func TestUnknownConfigKeyNamesTheNearest(t *testing.T) {
	h := newHost(t, "")
	if _, err := h.Exec(context.Background(), "sh", "-c", "mkdir -p /etc/nodeless && echo 'cluster-cdir: 10.42.0.0/16' > /etc/nodeless/config.yaml"); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, h, []string{"cluster-cdir", "cluster-cidr", "/etc/nodeless/config.yaml"}, serverArgs(h)...)
}

// TestPricesThatCannotBeReadAreRefused: the server does not start, and nothing is billed by half a table.
func TestPricesThatCannotBeReadAreRefused(t *testing.T) {
	h := newHost(t, "")
	script := "mkdir -p /etc/nodeless && printf 'USD: {digits: 6, rates: {intel: {cpu: \"0.1\"}}}\\n' >/etc/nodeless/prices.yaml && printf 'cpu: [{type: intel, cpu: 1}]\\n' >/etc/nodeless/catalog.yaml"
	if _, err := h.Exec(context.Background(), "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, h, []string{"/etc/nodeless/prices.yaml", "USD.rates.intel: memory is missing"}, serverArgs(h, "--prices=/etc/nodeless/prices.yaml")...)
	expectRefusal(t, h, []string{"/etc/nodeless/catalog.yaml", "cpu[0]: want either memory, a list, or range"}, serverArgs(h, "--catalog=/etc/nodeless/catalog.yaml")...)
	expectRefusal(t, h, []string{"EUR", "there are prices in CNY, USD"}, serverArgs(h, "--currency=EUR")...)
}

func TestBadFlagValues(t *testing.T) {
	h := newHost(t, "")
	expectRefusal(t, h, []string{"not-a-range"}, serverArgs(h, "--cluster-cidr=not-a-range")...)
	expectRefusal(t, h, []string{"no such policy", "choose of park, deny, run, inject"}, serverArgs(h, "--daemonsets=yes")...)
	expectRefusal(t, h, []string{"overlap"}, serverArgs(h, "--cluster-cidr=10.42.0.0/16", "--service-cidr=10.42.128.0/17")...)
}

func TestSecondServerIsRefusedWithThePid(t *testing.T) {
	// The lock holds the pid as the host sees it.
	pid, err := shared.Host.ReadFile("/var/lib/nodeless/server.lock")
	if err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, shared.Host, []string{strings.TrimSpace(string(pid)), "/var/lib/nodeless"}, serverArgs(shared.Host)...)
}

func TestMissingKernelFeatureIsNamed(t *testing.T) {
	h := newHost(t, "")
	// A host without the tun module: the device is not what it should be.
	if _, err := h.Exec(context.Background(), "mount", "--bind", "/dev/null", "/dev/net/tun"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := h.Nodeless(ctx, "check")
	if err == nil {
		t.Errorf("check passes without tun:\n%s", out)
	}
	found := false
	for _, line := range splitLines(out) {
		found = found || strings.Contains(line, "tun") && strings.Contains(strings.ToLower(line), "fail")
	}
	if !found || !strings.Contains(out, "modprobe tun") {
		t.Errorf("check does not name the missing module and the cure:\n%s", out)
	}
}

// TestCorruptBundleIsRefused flips one byte in the middle of the file that ships.
func TestCorruptBundleIsRefused(t *testing.T) {
	shared.OwnHost(t, "it lays out a bundle of its own")
	shipped := filepath.Join(filepath.Dir(shared.Host.Program), "..", "..", "nodeless") // dist/bundle/bin/nodeless → dist/nodeless
	if p := os.Getenv("NODELESS_SHIPPED"); p != "" {
		shipped = p
	}
	good, err := os.Open(shipped)
	if err != nil {
		t.Skipf("skipped: the file that ships is not built: %v", err)
	}
	defer good.Close()
	bad := filepath.Join(t.TempDir(), "nodeless")
	out, err := os.OpenFile(bad, os.O_CREATE|os.O_RDWR, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	size, err := io.Copy(out, good)
	if err != nil {
		t.Fatal(err)
	}
	at := size - size/3 // the launcher itself is a few megabytes at the front
	b := make([]byte, 1)
	if _, err := out.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteAt([]byte{b[0] ^ 0xff}, at); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, bad)
	expectRefusal(t, h, nil, "version")
	if _, err := os.Stat(h.Path("/var/lib/nodeless/bundle/current")); err == nil {
		t.Error("a corrupt bundle was put in place")
	}
}

// TestArchiveThatIsNoImage: the server must say which file is wrong, and run on.
func TestArchiveThatIsNoImage(t *testing.T) {
	shared.OwnHost(t, "it writes a file of the host")
	junk := filepath.Join(shared.Host.Root, "junk.tar")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("this is no image\n"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Host.Exec(context.Background(), "cp", junk, "/var/lib/nodeless/agent/images/junk.tar"); err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, shared.Host, []string{"junk.tar"}, "ctr", "images", "import", "/var/lib/nodeless/agent/images/junk.tar")
	if _, err := shared.Host.Exec(context.Background(), "rm", "/var/lib/nodeless/agent/images/junk.tar"); err != nil {
		t.Fatal(err)
	}
}

func TestPodWithoutItsImageSaysSo(t *testing.T) {
	s := newSpace(t, 3*time.Minute)
	s.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: missing}
spec:
  containers: [{name: main, image: "registry.invalid/no/such:image"}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec:
  containers: [{name: main, image: "docker.io/nodeless/none:1", imagePullPolicy: Never}]
`)
	s.Pod("missing", "cannot be pulled", waits("ErrImagePull", "ImagePullBackOff"))
	s.Pod("never", "has no image", waits("ErrImageNeverPull"))
	events := s.Kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}")
	for _, want := range []string{"registry.invalid", "docker.io/nodeless/none:1"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event names %s:\n%s", want, events)
		}
	}
}

// waits tells whether the first container waits for one of the reasons.
func waits(reasons ...string) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool {
		if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
			return false
		}
		for _, r := range reasons {
			if pod.Status.ContainerStatuses[0].State.Waiting.Reason == r {
				return true
			}
		}
		return false
	}
}
