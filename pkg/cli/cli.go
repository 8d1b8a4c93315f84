package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Streams are the program's standard streams.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// OSStreams are those of the process.
func OSStreams() Streams { return Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr} }

// multiCall are the names under which the program is a tool rather than itself.
var multiCall = []string{"kubectl", "ctr", "crictl"}

// Run runs the command that args (with the program's name first) say and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	if len(args) == 0 {
		args = []string{"nodeless"}
	}
	for _, tool := range multiCall {
		if filepath.Base(args[0]) == tool {
			args = append([]string{"nodeless", tool}, args[1:]...)
		}
	}
	if err := newApp(s).RunContext(ctx, args); err != nil {
		report(s.Err, err)
		return 1
	}
	return 0
}

func newApp(s Streams) *cli.App {
	app := &cli.App{
		Name:                      "nodeless",
		Usage:                     "serverless Kubernetes on your own machines: one binary, each Pod its own microVM",
		HideVersion:               true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true, // values such as feature-gates=A=true,B=false contain commas
		Reader:                    s.In,
		Writer:                    s.Out,
		ErrWriter:                 s.Err,
		ExitErrHandler:            func(*cli.Context, error) {}, // Run gives the exit code
		OnUsageError:              usageError,
		Action:                    unknownCommand,
	}
	app.Commands = []*cli.Command{
		serverCommand(s), kubectlCommand(s), ctrCommand(), crictlCommand(), checkCommand(s), versionCommand(s), userCommand(s), usageCommand(s), billCommand(s), reservationCommand(s), backupCommand(s), restoreCommand(s), uninstallCommand(s), completionCommand(s), containerdCommand(),
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
		for _, sub := range c.Subcommands {
			sub.OnUsageError = usageError
		}
	}
	return app
}

// unknownCommand is the action of the program without a command that it knows.
func unknownCommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowAppHelp(c)
	}
	return noSuchCommand("nodeless", c.Args().First(), c.App.Commands)
}

// noSuchCommand names the nearest of the commands of parent.
func noSuchCommand(parent, name string, commands []*cli.Command) error {
	var names []string
	for _, cmd := range commands {
		if !cmd.Hidden {
			names = append(names, cmd.Name)
		}
	}
	do := "`" + parent + " --help` lists the commands"
	if near := hint.Nearest(name, names); near != "" {
		do = fmt.Sprintf("did you mean `%s %s`?", parent, near)
	}
	return &hint.Error{Op: "run", On: parent + " " + name, Err: errors.New("there is no such command"), Do: do}
}

// usageError turns the flag package's words into ours, with the nearest flag.
func usageError(c *cli.Context, err error, _ bool) error {
	_, flag, unknown := strings.Cut(err.Error(), "flag provided but not defined: ")
	path := commandPath(c)
	do := "`" + path + " --help` lists the flags"
	if !unknown {
		return &hint.Error{Op: "read flags of " + path, Err: err, Do: do}
	}
	flag = strings.TrimLeft(flag, "-")
	var names []string
	for _, f := range c.Command.Flags {
		names = append(names, f.Names()...)
	}
	if near := hint.Nearest(flag, names); near != "" {
		do = fmt.Sprintf("did you mean --%s?", near)
	}
	return &hint.Error{Op: "read flags of " + path, Err: fmt.Errorf("unknown flag --%s", flag), Do: do}
}

// commandPath is what somebody types to get to the command: "nodeless user create".
func commandPath(c *cli.Context) string {
	path := c.App.Name
	for _, parent := range slices.Backward(c.Lineage()) {
		if cmd := parent.Command; cmd != nil && cmd.Name != "" && cmd.Name != c.App.Name {
			path += " " + cmd.Name
		}
	}
	return path
}

// report prints each fault that err joins, with what to do about it.
func report(w io.Writer, err error) {
	for _, fault := range flatten(err) {
		fmt.Fprintf(w, "error: %s\n", strings.ReplaceAll(fault.Error(), "\n", "\n       "))
		for _, do := range hint.Of(fault) {
			fmt.Fprintf(w, "hint: %s\n", do)
		}
	}
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// mustRoot refuses other users, for commands that change the host.
func mustRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &hint.Error{Op: what, Err: fmt.Errorf("uid %d is not root", os.Geteuid()), Do: "run it as root, or with sudo"}
}
