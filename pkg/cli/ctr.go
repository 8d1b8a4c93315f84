package cli

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/worker/containerd"
)

func ctrCommand() *cli.Command {
	return &cli.Command{
		Name:            "ctr",
		Usage:           "ctr for the local containerd",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if err := containerd.CtrMain(c.Context, paths().Run.ContainerdSocket(), args); err != nil {
				return &hint.Error{Op: "ctr " + strings.Join(args, " "), Err: err, Do: "look at the arguments (`nodeless ctr --help`), and whether the server runs (`nodeless check`)"}
			}
			return nil
		},
	}
}

// containerdCommand is what the server starts as its child.
func containerdCommand() *cli.Command {
	return &cli.Command{
		Name:            "containerd",
		Hidden:          true,
		SkipFlagParsing: true,
		HideHelp:        true,
		Action:          func(c *cli.Context) error { return containerd.Main(c.Context, c.Args().Slice()) },
	}
}
