package cli

import (
	"os"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/cli/config"
)

// flags makes command line flags of settings. They carry no types and no environment names of their own:
// config.Load parses, so that flag, environment and file obey the same rules and all faults are shown at once.
func flags(options []config.Option) []cli.Flag {
	var out []cli.Flag
	for _, o := range options {
		usage := o.Usage + " [$" + o.Env() + "]"
		if o.Kind == config.Scalar {
			out = append(out, &cli.StringFlag{Name: o.Name, Usage: usage, DefaultText: o.Default, Hidden: o.Hidden})
			continue
		}
		out = append(out, &cli.StringSliceFlag{Name: o.Name, Usage: usage, Hidden: o.Hidden})
	}
	return out
}

// sources collects what the command line says and adds the environment.
func sources(c *cli.Context) config.Sources {
	given := make(map[string][]string)
	for _, o := range config.Options() {
		if !c.IsSet(o.Name) {
			continue
		}
		if o.Kind == config.Scalar {
			given[o.Name] = []string{c.String(o.Name)}
		} else {
			given[o.Name] = c.StringSlice(o.Name)
		}
	}
	return config.Sources{Flags: given, Env: os.LookupEnv}
}

// paths are the folders of the server on this host, for tools that take no flags of ours. An unreadable
// configuration (only root may read it) leaves the environment and the defaults.
func paths() config.Paths {
	p, err := config.LoadPaths(config.Sources{Env: os.LookupEnv})
	if err != nil {
		return config.Defaults().Paths
	}
	return p
}
