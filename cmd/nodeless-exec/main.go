// Command nodeless-exec stands in the bundle's aux folder under the names iptables, nft and their siblings, and
// becomes the packed program of that name. The packed programs are Debian's, dynamically linked; they are started by
// the packed dynamic linker, so that no library of the host is touched.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	err := start(os.Args, os.Environ())
	fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
	os.Exit(126)
}

// start returns only when the program cannot be started.
func start(args, env []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own file: %w", err)
	}
	name := filepath.Base(self)
	argv, err := command(filepath.Dir(filepath.Dir(self)), name, args[1:])
	if err != nil {
		return err
	}
	env = append(env, "XTABLES_LIBDIR="+filepath.Join(filepath.Dir(filepath.Dir(self)), "netfilter", "xtables"))
	if err := syscall.Exec(argv[0], argv, env); err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	return nil
}

// command gives the command line for the tool called name of the bundle at dir.
func command(dir, name string, args []string) ([]string, error) {
	tree := filepath.Join(dir, "netfilter")
	program := ""
	switch {
	case name == "nft":
		program = "nft"
	case strings.HasPrefix(name, "iptables"), strings.HasPrefix(name, "ip6tables"):
		program = "xtables-nft-multi" // looks at its argv[0]
	default:
		return nil, fmt.Errorf("%q is not one of the packed programs", name)
	}
	lib := filepath.Join(tree, "lib")
	argv := []string{filepath.Join(lib, "ld-linux-x86-64.so.2"), "--argv0", name, "--library-path", lib, filepath.Join(tree, "bin", program)}
	return append(argv, args...), nil
}
