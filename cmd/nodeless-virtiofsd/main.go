// Command nodeless-virtiofsd is what Kata Containers starts as its virtiofsd, once per Pod with volumes. It
// turns itself into the bundled daemon, in a jail.
package main

import (
	"fmt"
	"os"

	"github.com/nodeless/nodeless/pkg/contract/owners"
	"github.com/nodeless/nodeless/pkg/vmm/virtiofsd"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == owners.Hold {
		owners.Holder(os.Stdin, os.Stdout)
		return
	}
	bundle, err := virtiofsd.Bundle(os.Getenv)
	if err == nil {
		err = virtiofsd.Exec(bundle, os.Args[1:], os.Getenv(owners.TreesEnv))
	}
	fmt.Fprintln(os.Stderr, "nodeless-virtiofsd:", err)
	os.Exit(1)
}
