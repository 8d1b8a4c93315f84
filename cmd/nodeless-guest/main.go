// Command nodeless-guest is /init of each microVM: it boots the guest and answers Kata's agent
// protocol. pkg/bundle packs it into the initrd; nobody starts it by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go's runtime starts
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/agent"
	"github.com/nodeless/nodeless/pkg/guest/boot"
	"github.com/nodeless/nodeless/pkg/guest/container"
	"github.com/nodeless/nodeless/pkg/guest/mount"
	"github.com/nodeless/nodeless/pkg/version"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "init":
			libcontainer.Init() // does not return
		case container.HolderArg:
			fmt.Fprintln(os.Stderr, container.HoldPIDNamespace())
			os.Exit(1)
		}
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "nodeless-guest is the /init of a microVM and is not started by hand")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := run(ctx)
	fmt.Fprintln(os.Stderr, "nodeless-guest:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// run boots the guest and serves until the VM ends.
func run(ctx context.Context) error {
	if err := boot.Mounts(); err != nil {
		return err
	}
	level := slog.LevelInfo
	if boot.Debug() {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ready := make(chan error, 1)
	go func() { ready <- boot.Run(log) }()
	requests, err := answerHost(ctx, log) // as soon as the port's driver is loaded: the host has work to do from then on
	if err != nil {
		return errors.Join(err, <-ready)
	}
	if err := <-ready; err != nil {
		return err
	}
	a, err := newAgent(ctx, log, level == slog.LevelDebug)
	if err != nil {
		return err
	}
	log.Info("guest agent is up", "version", version.Version, "uptime", uptime())
	return a.Serve(ctx, requests)
}

// answerHost takes the channel to the host into use. Requests wait in the listener until somebody accepts them.
func answerHost(ctx context.Context, log *slog.Logger) (net.Listener, error) {
	port, err := boot.OpenPort(ctx, contract.AgentPortName)
	if err != nil {
		return nil, err
	}
	return agentmux.Listen(ctx, port, agentmux.Guest{
		Attached: func(h contract.Hello) { attached(log, h) },
		Clock:    boot.Clock{},
	})
}

// newAgent makes the agent of a guest that has booted, and reaps for it.
func newAgent(ctx context.Context, log *slog.Logger, debug bool) (*agent.Agent, error) {
	reaper := container.NewReaper()
	go reaper.Run(ctx)
	manager, err := container.NewManager(container.Config{StateDir: "/run/nodeless", Reaper: reaper, Log: log})
	if err != nil {
		return nil, err
	}
	sys := os.DirFS("/sys")
	return agent.New(agent.Config{
		Containers: manager,
		Mounts:     mount.NewTable(sys, contract.GuestRoot+"/local"),
		Version:    version.Version,
		Log:        log,
		Debug:      debug,
	}, sys), nil
}

// attached takes over what a host tells when it attaches: the time and fresh entropy.
func attached(log *slog.Logger, h contract.Hello) {
	if err := boot.SetClock(h.Time); err != nil {
		log.Warn("clock keeps its own time", "err", err)
	}
	if err := boot.AddEntropy(h.Entropy[:]); err != nil {
		log.Warn("random generator is not reseeded", "err", err)
	}
}

// uptime is how long the kernel has been running.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()).Round(time.Millisecond)
}
