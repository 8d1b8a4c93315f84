package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// anyOrder lets the flags of cmd stand behind its arguments too: `nodeless user create alice --namespaces shop`.
func anyOrder(cmd *cli.Command) *cli.Command {
	action := cmd.Action
	cmd.SkipFlagParsing = true
	cmd.Action = func(c *cli.Context) error {
		inner := *c.Command
		inner.SkipFlagParsing, inner.HideHelpCommand, inner.Subcommands, inner.Action = false, true, nil, action
		return inner.Run(c, append([]string{inner.Name}, flagsFirst(inner.Flags, c.Args().Slice())...)...)
	}
	return cmd
}

// flagsFirst puts the flags, with their values, before the other arguments. Everything after -- is an argument.
func flagsFirst(flags []cli.Flag, args []string) []string {
	takesValue := make(map[string]bool)
	for _, f := range flags {
		doc, ok := f.(cli.DocGenerationFlag)
		for _, name := range f.Names() {
			takesValue[name] = ok && doc.TakesValue()
		}
	}
	var first, rest []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(args[i], "-") || args[i] == "-" {
			rest = append(rest, args[i])
			continue
		}
		first = append(first, args[i])
		name, _, whole := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if takesValue[name] && !whole && i+1 < len(args) {
			i++
			first = append(first, args[i])
		}
	}
	return append(append(first, "--"), rest...)
}
