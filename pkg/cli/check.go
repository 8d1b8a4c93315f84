package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/contract/owners"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/preflight"
	"github.com/nodeless/nodeless/pkg/registries"
	"github.com/nodeless/nodeless/pkg/vmm"
	"github.com/nodeless/nodeless/pkg/vmm/probe"
)

func checkCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "look at this host: pass, warn or fail for each fact, and what to do",
		ArgsUsage: " ",
		Flags: append(flags(config.Pick("config", "data-dir", "run-dir", "node-name", "https-listen-port", "accel", "private-registry")), outputFlag(),
			&cli.BoolFlag{Name: "cis", Usage: "answer the CIS Kubernetes Benchmark instead: for the server that runs here, or would with these settings"}),
		Action: func(c *cli.Context) error { return check(c, s) },
	}
}

func check(c *cli.Context, s Streams) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	cfg, err := config.Load(sources(c))
	if err != nil {
		return err
	}
	set, err := hostSettings(cfg)
	if err != nil {
		return err
	}
	var report preflight.Report
	if c.Bool("cis") {
		if report, err = checkCIS(c.Context, cfg, set.ServerPID); err != nil {
			return err
		}
	} else {
		report = preflight.Run(c.Context, thisHost(cfg), set)
	}
	if asJSON {
		err = printJSON(s, report)
	} else {
		err = printReport(s, report)
	}
	if n := report.Count(preflight.Fail); err == nil && n > 0 {
		return &hint.Error{Op: "check this host", Err: fmt.Errorf("%d of %d facts fail", n, len(report.Results)), Do: "fix what is marked fail"}
	}
	return err
}

func printReport(s Streams, r preflight.Report) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	for _, res := range r.Results {
		fmt.Fprintf(w, "%s\t%s\t%s\n", res.Status, res.Name, strings.ReplaceAll(res.Detail, "\n", "; "))
		if res.Do != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", res.Do)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%d pass, %d warn, %d fail", r.Count(preflight.Pass), r.Count(preflight.Warn), r.Count(preflight.Fail))
	if n := r.Count(preflight.NotApplicable); n > 0 {
		fmt.Fprintf(s.Out, ", %d not applicable", n)
	}
	_, err := fmt.Fprintln(s.Out)
	return err
}

// hostSettings are the parts of the configuration that the preflight looks at.
func hostSettings(cfg config.Config) (preflight.Settings, error) {
	name := cfg.Node.Name
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return preflight.Settings{}, fmt.Errorf("find host name: %w", err)
		}
		name = strings.ToLower(host)
	}
	pid, err := lock.Holder(cfg.Paths.Data.Lock())
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return preflight.Settings{}, err
	}
	return preflight.Settings{
		DataDir: string(cfg.Paths.Data), NodeName: name, Accel: cfg.Node.Accel, HugePages: cfg.Node.HugePages, ServerPID: pid,
		Ports: []preflight.Port{
			{Number: cfg.API.Port, Of: "apiserver", Flag: "--https-listen-port"}, {Number: 10250, Of: "kubelet"},
			{Number: 10249, Of: "kube-proxy"}, {Number: 10256, Of: "kube-proxy"}, {Number: 10257, Of: "controller-manager"}, {Number: 10259, Of: "scheduler"},
		},
	}, nil
}

// thisHost is the host with the probes that need the bundle.
func thisHost(cfg config.Config) preflight.Host {
	readable := func() error {
		_, err := registries.Load(cfg.Paths.Registries, cfg.Paths.RegistriesAsked())
		return err
	}
	files, err := openBundle()
	if err != nil {
		h := preflight.ThisHost("", "")
		h.Registries, h.Bundle = readable, func(context.Context) error { return err }
		return h
	}
	h := preflight.ThisHost(filepath.Join(files.Aux(), "nft"), filepath.Join(files.Aux(), "iptables"))
	h.Registries = readable
	h.Volumes = func() error {
		users, err := owners.For(files.Virtiofsd(), string(cfg.Paths.Data), "/run")
		return errors.Join(err, users.Close())
	}
	h.Bundle = func(context.Context) error { return bundle.Verify(files.Dir()) }
	h.Accel = func(ctx context.Context) (preflight.Accel, error) { return probeAccel(ctx, files, cfg.Paths) }
	return h
}

// probeAccel asks how microVMs run here. The answer is kept where the server keeps it; before there was a server, nowhere.
func probeAccel(ctx context.Context, files *bundle.Bundle, p config.Paths) (how preflight.Accel, err error) {
	keep := p.Run.VMMLogs()
	if _, err := os.Stat(keep); err != nil {
		if keep, err = os.MkdirTemp("", "nodeless-check-"); err != nil {
			return how, fmt.Errorf("probe KVM: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(keep)) }()
	}
	got, err := probe.Probe(ctx, vmm.HostConfig{Bundle: files.Dir(), Accel: vmm.AccelTCG, ScratchDir: p.Data.Scratch(), LogDir: keep})
	return preflight.Accel{Kind: got.Accel, Detail: got.Detail, Do: got.Cause.Do(), Doubtful: got.Cause.Doubtful()}, err
}
