// Command testhost runs the product in a test host of its own, for people: `testhost demo` shows two Pods in
// microVMs and cleans up, `testhost run` keeps a cluster until Ctrl-C. scripts/demo.sh and scripts/run.sh build and call it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/tests/testbed"
)

func main() {
	testbed.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	program := flag.String("program", "", "the product's executable (default dist/bundle/bin/nodeless)")
	manifest := flag.String("manifest", "manifests/examples/hello.yaml", "what the demo applies")
	flag.Parse()
	switch flag.Arg(0) {
	case "demo":
		return withHost(ctx, *program, func(ctx context.Context, h *testbed.Host, s *testbed.Server) error {
			return demo(ctx, h, s, *manifest)
		})
	case "run":
		return withHost(ctx, *program, stay)
	}
	return fmt.Errorf("usage: testhost [-program FILE] demo|run")
}

// withHost makes a host, starts a server in it, and takes both down whatever happens.
func withHost(ctx context.Context, program string, use func(context.Context, *testbed.Host, *testbed.Server) error) (err error) {
	h, err := testbed.New(testbed.Options{Program: program})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := h.Close(); err == nil {
			err = cerr
		}
	}()
	s, err := h.StartServer()
	if err != nil {
		return err
	}
	if err := use(ctx, h, s); err != nil {
		return err
	}
	return s.Stop()
}

func stay(ctx context.Context, h *testbed.Host, s *testbed.Server) error {
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := s.UntilNodeReady(wait); err != nil {
		return err
	}
	enter := strings.Join(h.EnterArgs(), " ")
	fmt.Printf(`The cluster is up, %.1f s after its start. It lives in namespaces of its own; from another root shell:

  alias nl='%s %s'
  nl kubectl get nodes
  nl kubectl apply -f %s/manifests/examples/hello.yaml
  %s curl -s http://<cluster IP of a Service>

Its log is %s. Ctrl-C ends it and removes everything.
`, time.Since(s.Began).Seconds(), enter, h.Program, workingDir(), enter, s.Log)
	<-ctx.Done()
	fmt.Println("stopping")
	return nil
}

func workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return dir
}

// demo applies the example, waits for its Pods, asks the Service from the host, and prints one line.
func demo(ctx context.Context, h *testbed.Host, s *testbed.Server, manifest string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	if err := s.Until(ctx, "the example is applied", func(ctx context.Context) (bool, error) {
		return true, h.Apply(ctx, string(text))
	}); err != nil {
		return err
	}
	var first time.Duration
	if err := s.Until(ctx, "both Pods are ready", func(ctx context.Context) (bool, error) {
		out, err := h.Kubectl(ctx, "get", "pods", "-l", "app=hello", "-o", "jsonpath={range .items[*]}{.status.phase} {end}|{range .items[*]}{.status.containerStatuses[0].ready} {end}")
		if err != nil {
			return false, err
		}
		phases, ready, _ := strings.Cut(out, "|")
		if first == 0 && strings.Contains(phases, "Running") {
			first = time.Since(s.Began)
		}
		if strings.Count(ready, "true") != 2 {
			return false, fmt.Errorf("phases %q, ready %q", phases, ready)
		}
		return true, nil
	}); err != nil {
		pods, _ := h.Kubectl(context.WithoutCancel(ctx), "describe", "pods")
		return fmt.Errorf("%w\n%s", err, pods)
	}
	guest, err := h.Kubectl(ctx, "exec", "deploy/hello", "--", "uname", "-r")
	if err != nil {
		return err
	}
	ip, err := h.Kubectl(ctx, "get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	var answer string
	if err := s.Until(ctx, "the Service answers", func(ctx context.Context) (bool, error) {
		answer, err = h.Exec(ctx, "curl", "-sS", "--max-time", "5", "http://"+ip)
		return err == nil, err
	}); err != nil {
		return err
	}
	fmt.Printf("demo: pods=2 guest-kernel=%s host-kernel=%s answer=%q first-pod-seconds=%.1f\n",
		strings.TrimSpace(guest), hostKernel(), strings.TrimSpace(answer), first.Seconds())
	return nil
}

func hostKernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
