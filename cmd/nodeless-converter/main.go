// Command nodeless-converter is what containerd starts to convert a layer of an image, or to merge layers. It is small, because it is
// started for each.
package main

import (
	"os"

	"github.com/nodeless/nodeless/pkg/converter"
)

func main() { os.Exit(converter.Main(os.Args[1:])) }
