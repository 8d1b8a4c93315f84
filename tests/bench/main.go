// Command bench measures the product on this machine, in test hosts of its own, and prints the lines
// `bench NAME VALUE UNIT` that docs/SPECIFICATION.md names. Times are medians of several unless the name
// says otherwise; comparisons (runc, etcd) are made in the same run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nodeless/nodeless/tests/testbed"
)

type bench struct {
	printer
	dist  string
	quick bool
	// profiles is the folder that growth leaves Go's heap profiles in, "" for none.
	profiles string
	// flags are given to each server besides.
	flags []string
}

func main() {
	testbed.Reexec()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "etcd" {
		return etcdMain(ctx, args[1])
	}
	if len(args) > 0 && args[0] == "column" {
		return columnMain(args[1:])
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	dist := flags.String("dist", "dist", "folder of the built product")
	quick := flags.Bool("quick", false, "fewer samples")
	only := flags.String("only", "", "one part: start, pods, hpa, writes, admission, growth")
	profiles := flags.String("profiles", "", "folder for heap profiles of growth")
	if err := flags.Parse(args); err != nil {
		return err
	}
	abs, err := filepath.Abs(*dist)
	if err != nil {
		return err
	}
	b := &bench{printer: printer{os.Stdout}, dist: abs, quick: *quick, profiles: *profiles, flags: flags.Args()}
	var errs []error
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"start", b.starts}, {"pods", b.pods}, {"hpa", b.hpa}, {"writes", b.writes}, {"admission", b.admissions}, {"growth", b.growth}} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("bench %s: %w", part.name, err))
		}
	}
	return errors.Join(errs...)
}

// samples is n, or fewer when asked to be quick.
func (b *bench) samples(n int) int {
	if b.quick {
		return max(1, n/4)
	}
	return n
}

func (b *bench) program() string { return filepath.Join(b.dist, "bundle", "bin", "nodeless") }

// cluster is a host with a running server.
type cluster struct {
	host   *testbed.Host
	server *testbed.Server
}

func (b *bench) newHost() (*cluster, error) {
	h, err := testbed.New(testbed.Options{Program: b.program(), Env: goSettings()})
	if err != nil {
		return nil, err
	}
	return &cluster{host: h}, nil
}

// goSettings are those of Go's collector that the server of a measurement may be given.
func goSettings() (env []string) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT", "GODEBUG"} {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (b *bench) newCluster(flags ...string) (*cluster, error) {
	c, err := b.newHost()
	if err != nil {
		return nil, err
	}
	if c.server, err = c.host.StartServer(append(flags, b.flags...)...); err != nil {
		return nil, errors.Join(err, c.host.Close())
	}
	return c, nil
}

func (c *cluster) close() error { return errors.Join(c.server.Stop(), c.host.Close()) }

func deadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
