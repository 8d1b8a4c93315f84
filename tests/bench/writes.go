package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// writes measures concurrent creates on kine with SQLite and, on a second host of the same run, on embedded etcd.
func (b *bench) writes(ctx context.Context) error {
	if err := b.writesOn(ctx, "", nil); err != nil {
		return err
	}
	return b.writesOn(ctx, "_etcd", []string{"--datastore-endpoint=http://127.0.0.1:2379"})
}

func (b *bench) writesOn(ctx context.Context, suffix string, flags []string) (err error) {
	c, stop, err := b.storeCluster(ctx, flags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, cancel := deadline(ctx, 5*time.Minute)
	defer cancel()
	if err := c.server.UntilNodeReady(ctx); err != nil {
		return err
	}
	cfg, err := c.host.RESTConfig()
	if err != nil {
		return err
	}
	var p50, p99 []float64
	for i := range b.samples(4) + 1 {
		took, err := createConfigMaps(ctx, cfg, i)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // connections and caches warm up
		}
		p50, p99 = append(p50, percentile(took, 50)*1000), append(p99, percentile(took, 99)*1000)
	}
	b.line("configmap_create_32_p50"+suffix, median(p50), "ms")
	b.line("configmap_create_32_p99"+suffix, median(p99), "ms")
	return nil
}

// storeCluster starts a cluster, with an etcd in its host first when flags name one.
func (b *bench) storeCluster(ctx context.Context, flags []string) (*cluster, func() error, error) {
	if len(flags) == 0 {
		c, err := b.newCluster()
		if err != nil {
			return nil, nil, err
		}
		return c, c.close, nil
	}
	c, err := b.newHost()
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, errors.Join(err, c.host.Close())
	}
	etcd := c.host.Command(ctx, self, "etcd", "/var/lib/nodeless/etcd")
	out, err := etcd.StdoutPipe()
	if err != nil {
		return nil, nil, errors.Join(err, c.host.Close())
	}
	if err := etcd.Start(); err != nil {
		return nil, nil, errors.Join(err, c.host.Close())
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); !strings.Contains(line, "ready") {
		return nil, nil, errors.Join(fmt.Errorf("start etcd: %q: %w", line, err), c.host.Close())
	}
	if c.server, err = c.host.StartServer(flags...); err != nil {
		return nil, nil, errors.Join(err, c.host.Close())
	}
	stop := func() error {
		err := c.close() // the host takes etcd with it
		_ = etcd.Wait()  // killed with its host, by intent
		return err
	}
	return c, stop, nil
}
