package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/preflight"
	"github.com/nodeless/nodeless/pkg/version"
)

func serverCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "server",
		Usage:     "run a cluster on this host: control plane and worker in one process",
		ArgsUsage: " ",
		Description: "Each flag is also an environment variable and a key of the configuration file:\n" +
			"--data-dir, NODELESS_DATA_DIR, `data-dir: /x`. The flag wins over the environment, the environment over the file.",
		Flags:  flags(config.Options()),
		Action: func(c *cli.Context) error { return serve(c, s) },
	}
}

// serve checks everything that can be checked before anything is started, then runs the roles until a signal comes.
func serve(c *cli.Context, s Streams) (err error) {
	if c.NArg() > 0 {
		return &hint.Error{Op: "run server", Err: fmt.Errorf("unexpected argument %q", c.Args().First()), Do: "`nodeless server --help` lists the flags"}
	}
	cfg, err := config.Load(sources(c))
	if err != nil {
		return err
	}
	if err := mustRoot("run server"); err != nil {
		return err
	}
	if cfg, err = cfg.Complete(os.Hostname, config.HostAddress); err != nil {
		return err
	}
	if err := checkComponents(cfg); err != nil {
		return err
	}
	if err := os.MkdirAll(string(cfg.Paths.Data), 0o700); err != nil {
		return &hint.Error{Op: "make data dir", On: string(cfg.Paths.Data), Err: cause(err), Do: "choose a folder on a writable file system with --data-dir"}
	}
	// No file shall hold what is in memory here, keys and Secrets, nor that of anything started here.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	held, err := lock.Acquire(cfg.Paths.Data.Lock())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Release()) }()

	log := slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: cfg.LogLevel}))
	ctx, stop := untilSignal(c.Context)
	defer stop()
	if err := requireHost(ctx, cfg, log); err != nil {
		return err
	}
	notify, err := takeSupervisor()
	if err != nil {
		return err
	}
	log.Info("server starting", "version", version.Version, "pid", os.Getpid(), "data", cfg.Paths.Data, "node", cfg.Node.Name, "address", cfg.Node.IP)
	defer context.AfterFunc(ctx, func() {
		if err := notify.tell("STOPPING=1"); err != nil {
			log.Warn("systemd not told", "error", err)
		}
	})()
	return runRoles(ctx, cfg, notify, log)
}

// untilSignal ends the context at the first SIGTERM or SIGINT. The second one finds no handler and ends the process.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// requireHost refuses a host that cannot work, with every reason, and logs what is only remarkable.
func requireHost(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	set, err := hostSettings(cfg)
	if err != nil {
		return err
	}
	set.ServerPID = 0 // the lock is ours now: nobody else's port is excused
	report, err := preflight.Require(ctx, thisHost(cfg), set)
	for _, r := range report.Results {
		if r.Status == preflight.Warn {
			log.Warn("host check", "fact", r.Name, "detail", r.Detail, "do", r.Do)
		}
	}
	return err
}
