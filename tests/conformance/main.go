package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
)

func main() {
	testbed.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: conformance images|run [flags]")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	set := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "images":
		var p parts
		set.StringVar(&p.bin, "bin", "", "folder of the programs that go into images")
		set.StringVar(&p.base, "base", "", "tar of a small Debian")
		set.StringVar(&p.sources, "sources", "", "folder of upstream's images, test/images of Kubernetes")
		out := set.String("out", "", "file of the archive to write")
		if err := set.Parse(args[1:]); err != nil {
			return err
		}
		return writeImages(p, *out)
	case "run":
		var o options
		set.StringVar(&o.dist, "dist", "", "folder of what scripts/conformance.sh has built")
		set.StringVar(&o.program, "program", "", "the product (default dist/bundle/bin/nodeless)")
		set.StringVar(&o.list, "list", "", "upstream's conformance.yaml")
		set.StringVar(&o.state, "state", "", "folder in which verdicts are kept")
		set.StringVar(&o.group, "group", "all", "group of tests, or all")
		set.StringVar(&o.only, "only", "", "only tests whose name this regular expression fits")
		set.StringVar(&o.sizing, "sizing", native, "how Pods are sized: native or spec")
		set.DurationVar(&o.limit, "limit", 4*time.Hour, "how long each group may take")
		set.IntVar(&o.procs, "procs", 3, "tests at one time")
		set.BoolVar(&o.smoke, "smoke", false, "a few tests of each other group as well")
		set.BoolVar(&o.small, "small", false, "with sizing spec: every Pod is of the smallest spec, for tests that hold more Pods than the host has memory for")
		set.StringVar(&o.json, "json", "", "file for the verdicts, as `go test -json` has them")
		if err := set.Parse(args[1:]); err != nil {
			return err
		}
		return o.run(ctx)
	}
	return errUsage
}
