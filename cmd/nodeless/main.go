// Command nodeless is the main program: every command of pkg/cli, under the name by which it was called.
package main

import (
	"context"
	"os"

	"github.com/nodeless/nodeless/pkg/cli"
)

func main() { os.Exit(cli.Run(context.Background(), os.Args, cli.OSStreams())) }
