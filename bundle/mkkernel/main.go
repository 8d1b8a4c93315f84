// Command mkkernel takes the ELF kernel out of a bzImage whose payload is zstd, as Debian's 6.12 kernels have it.
// Booting the ELF file skips the self-extraction, which costs a second for each microVM under TCG.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

func main() {
	in := flag.String("bzimage", "", "the kernel as packaged")
	out := flag.String("out", "", "where the ELF kernel goes")
	flag.Parse()
	if err := convert(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkkernel:", err)
		os.Exit(1)
	}
}

func convert(in, out string) error {
	image, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	elf, err := extract(image)
	if err != nil {
		return fmt.Errorf("extract %s: %w", in, err)
	}
	return atomicfile.Write(out, elf, 0o644)
}
