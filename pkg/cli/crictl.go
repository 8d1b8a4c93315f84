package cli

import (
	"os"
	"slices"
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
	if quiet := crictlConfig(args, "/etc/crictl.yaml"); quiet != "" && os.Getenv("CRI_CONFIG_FILE") == "" {
		if err := os.Setenv("CRI_CONFIG_FILE", quiet); err != nil {
			return err
		}
	}
	err = syscall.Exec(files.Crictl(), append([]string{"crictl"}, args...), os.Environ())
	return &hint.Error{Op: "start", On: files.Crictl(), Err: err, Do: "run `nodeless check`: it verifies the unpacked bundle"}
}

// crictlConfig is the configuration that crictl is told to read: none, since it warns of its usual file at each call where there is none;
// empty for the usual one, which an operator has made or is about to.
func crictlConfig(args []string, usual string) string {
	if _, err := os.Stat(usual); err == nil || slices.Contains(args, "config") {
		return ""
	}
	return os.DevNull
}

// openBundle finds the files that came with the running program.
func openBundle() (*bundle.Bundle, error) {
	dir, err := bundle.Locate()
	if err != nil {
		return nil, err
	}
	return bundle.Open(dir)
}
