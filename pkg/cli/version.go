package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/version"
)

// linked are the modules whose versions operators ask for, and their common names.
var linked = []struct{ module, name string }{
	{"k8s.io/kubernetes", "kubernetes"}, {"github.com/containerd/containerd/v2", "containerd"},
	{"github.com/k3s-io/kine", "kine"}, {"github.com/coredns/coredns", "coredns"},
}

func versionCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "version",
		Usage:     "print the version",
		ArgsUsage: " ",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "bundle", Usage: "list every part that the program carries: version, origin and licence"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			if c.Bool("bundle") {
				return printParts(s, asJSON)
			}
			return printVersion(s, asJSON)
		},
	}
}

func printVersion(s Streams, asJSON bool) error {
	versions := map[string]string{"nodeless": version.Version, "commit": version.Commit, "go": runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			for _, l := range linked {
				if dep.Path == l.module {
					versions[l.name] = dep.Version
				}
			}
		}
	}
	if asJSON {
		return printJSON(s, versions)
	}
	fmt.Fprintf(s.Out, "nodeless %s (commit %s)\n", version.Version, version.Commit)
	for _, l := range linked {
		if v := versions[l.name]; v != "" {
			fmt.Fprintf(s.Out, "%s %s\n", l.name, v)
		}
	}
	_, err := fmt.Fprintf(s.Out, "go %s\n", runtime.Version())
	return err
}

func printParts(s Streams, asJSON bool) error {
	files, err := openBundle()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(s, files.Parts())
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tORIGIN\tLICENCE")
	for _, p := range files.Parts() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, p.Version, p.Origin, p.Licence)
	}
	return w.Flush()
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`format`: text or json", DefaultText: "text"}
}

func wantsJSON(c *cli.Context) (bool, error) {
	switch format := c.String("output"); format {
	case "", "text":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, fmt.Errorf("print as %q: the formats are text and json", format)
	}
}

func printJSON(s Streams, v any) error {
	enc := json.NewEncoder(s.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
