// Command nodeless-vmm is what Kata Containers starts as its "cloud-hypervisor", once per Pod. It runs the
// Pod's microVM on the bundled QEMU. Its own settings come from the file that NODELESS_VMM_CONFIG names.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/version"
	"github.com/nodeless/nodeless/pkg/vmm"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == jail.Argument { // started by one of its kind, to become QEMU
		os.Exit(jail.Main(os.Args[2:]))
	}
	// One of these runs per Pod and has little to do: few threads, a small heap.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(24 << 20)
	parent := os.Getppid()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], parent, os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, parent int, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, showVersion, err := parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "nodeless-vmm:", err)
		return 2
	}
	if showVersion {
		fmt.Fprintln(stdout, contract.VMM, version.Version)
		return 0
	}
	opts.Parent, opts.Errors = parent, stderr
	cfg, err := vmm.LoadHostConfig(getenv(contract.ConfigEnv))
	if err == nil {
		err = vmm.Run(ctx, cfg, opts)
	}
	if err != nil {
		fmt.Fprintln(stderr, "nodeless-vmm:", err)
		return 1
	}
	return 0
}

// parse reads Cloud Hypervisor's arguments as Kata writes them.
func parse(args []string) (opts vmm.Options, showVersion bool, err error) {
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		switch {
		case name == "--version":
			return opts, true, nil
		case name == "--api-socket" || name == "--seccomp":
			if !inline {
				if i++; i == len(args) {
					return opts, false, fmt.Errorf("parse arguments: %s needs a value", name)
				}
				value = args[i]
			}
			if name == "--api-socket" {
				opts.APISocket = strings.TrimPrefix(value, "path=")
			}
		case strings.HasPrefix(name, "-v") && strings.Trim(name, "-v") == "":
			opts.Verbose = true
		default:
			return opts, false, fmt.Errorf("parse arguments: unknown argument %q", args[i])
		}
	}
	if opts.APISocket == "" {
		return opts, false, fmt.Errorf("parse arguments: --api-socket is missing")
	}
	return opts, false, nil
}
