package cli

import (
	"os"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/bundle"
	"github.com/nodeless/nodeless/pkg/hint"
)

func crictlCommand() *cli.Command {
	return &cli.Command{
		Name:            "crictl",
		Usage:           "crictl for the local containerd",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action:          func(c *cli.Context) error { return crictl(c.Args().Slice()) },
	}
}

// crictl becomes the crictl of the bundle, which takes the endpoints from the environment unless a flag says otherwise.
func crictl(args []string) error {
	files, err := openBundle()
	if err != nil {
		return err
	}
	endpoint := "unix://" + paths().Run.ContainerdSocket()
	for _, name := range []string{"CONTAINER_RUNTIME_ENDPOINT", "IMAGE_SERVICE_ENDPOINT"} {
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, endpoint); err != nil {
				return err
			}
		}
	}
	err = syscall.Exec(files.Crictl(), append([]string{"crictl"}, args...), os.Environ())
	return &hint.Error{Op: "start", On: files.Crictl(), Err: err, Do: "run `nodeless check`: it verifies the unpacked bundle"}
}

// openBundle finds the files that came with the running program.
func openBundle() (*bundle.Bundle, error) {
	dir, err := bundle.Locate()
	if err != nil {
		return nil, err
	}
	return bundle.Open(dir)
}
