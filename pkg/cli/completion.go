package cli

import (
	"embed"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/hint"
)

//go:embed completion
var completions embed.FS

func completionCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script: source <(nodeless completion bash)",
		ArgsUsage: "bash|zsh|fish",
		Action:    func(c *cli.Context) error { return completion(c, s) },
	}
}

func completion(c *cli.Context, s Streams) error {
	switch shell := c.Args().First(); shell {
	case "bash", "zsh":
		script, err := completions.ReadFile("completion/" + shell)
		if err != nil {
			return err
		}
		_, err = s.Out.Write(script)
		return err
	case "fish":
		script, err := c.App.ToFishCompletion()
		if err != nil {
			return fmt.Errorf("make fish completion: %w", err)
		}
		_, err = fmt.Fprint(s.Out, script)
		return err
	default:
		return &hint.Error{Op: "make completion for", On: fmt.Sprintf("%q", shell), Err: errors.New("no such shell is known"), Do: "choose bash, zsh or fish"}
	}
}
