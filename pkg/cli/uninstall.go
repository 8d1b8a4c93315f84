package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/cli/uninstall"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/teardown"
)

// stopServer is how long a server may take to stop before uninstall gives up.
const stopServer = time.Minute

func uninstallCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "uninstall",
		Usage:     "stop the cluster of this host and remove what nodeless made, and nothing else",
		ArgsUsage: " ",
		Flags: append(flags(config.Pick("config", "data-dir", "run-dir", "write-kubeconfig", "cgroup-root")),
			&cli.BoolFlag{Name: "dry-run", Usage: "only print what would be removed"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "keep-data", Usage: "keep datastore, certificates, images and volumes for a later installation"},
		),
		Action: func(c *cli.Context) error { return uninstallAll(c, s) },
	}
}

func uninstallAll(c *cli.Context, s Streams) error {
	cfg, err := config.Load(sources(c))
	if err != nil {
		return err
	}
	if err := mustRoot("uninstall"); err != nil {
		return err
	}
	installed := uninstall.Config{
		Data: cfg.Paths.Data, Run: cfg.Paths.Run, Kubeconfig: cfg.Paths.Kubeconfig, PodLogs: cfg.Paths.Data.PodLogs(),
		Record: filepath.Join(filepath.Dir(datadir.ConfigFile), "installed"), KeepData: c.Bool("keep-data"),
	}
	steps, err := uninstallSteps(cfg, installed)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return teardown.Uninstall(c.Context, steps, true, s.Out)
	}
	if !c.Bool("yes") {
		if err := confirm(s, installed); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(c.Context, stopServer)
	defer cancel()
	if err := uninstall.Stop(ctx, installed); err != nil {
		return err
	}
	if err := teardown.Uninstall(c.Context, steps, false, s.Out); err != nil {
		return err
	}
	return uninstall.Reload(c.Context)
}

// uninstallSteps are those of pkg/teardown and then the files, of which it leaves alone what others put into our
// folders, and the data if that is wanted.
func uninstallSteps(cfg config.Config, installed uninstall.Config) ([]teardown.Step, error) {
	files, err := openBundle()
	if err != nil {
		return nil, err
	}
	steps := teardown.Steps(teardown.Installation{
		Host: teardown.Host{
			Bundles: []string{cfg.Paths.Data.Bundles(), files.Dir()}, ScratchDir: cfg.Paths.Data.Scratch(),
			Socket: cfg.Paths.Run.ContainerdSocket(), CgroupRoot: cfg.Node.CgroupRoot,
		},
		DataDir: string(cfg.Paths.Data), RunDir: string(cfg.Paths.Run),
		Network: teardown.HostNetwork{IPTables: filepath.Join(files.Aux(), "iptables"), NFT: filepath.Join(files.Aux(), "nft")},
	})
	return append(steps, teardown.Step{
		Name: "files",
		Find: func(context.Context) ([]string, error) {
			items, err := uninstall.Plan(installed)
			var found []string
			for _, item := range items {
				if !item.Empty {
					found = append(found, item.Path)
				}
			}
			return found, err
		},
		Remove: func(context.Context) error {
			items, err := uninstall.Plan(installed)
			if err != nil {
				return err
			}
			return uninstall.Remove(items, uninstall.Mounts)
		},
	}), nil
}

// confirm asks, and takes only yes for yes.
func confirm(s Streams, installed uninstall.Config) error {
	what := "all Pods and all data in " + string(installed.Data)
	if installed.KeepData {
		what = "all Pods, but not the data in " + string(installed.Data)
	}
	if _, err := fmt.Fprintf(s.Err, "This stops the cluster and removes %s. Continue? [y/N] ", what); err != nil {
		return err
	}
	line, err := bufio.NewReader(s.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return &hint.Error{Op: "uninstall", Err: errors.New("not confirmed"), Do: "answer y, or give --yes; --dry-run shows what would be removed"}
}
