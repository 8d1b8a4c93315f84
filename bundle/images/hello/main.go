// Command hello is the image that nodeless brings along: a web server that tells which guest answers, and a few
// subcommands with which examples and tests look around from inside a Pod.
//
//	hello                     serve on :8080 (or $PORT)
//	hello get [-k] URL        print status and body of an HTTP GET; fails unless the status is 2xx
//	hello resolve NAME        print the addresses of NAME, one a line
//	hello alloc MB            use MB megabytes of memory, and hold them if $HOLD is set
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return serve()
	}
	switch args[0] {
	case "get":
		return get(args[1:])
	case "resolve":
		return resolve(args[1:])
	case "alloc":
		return alloc(args[1:])
	}
	return fmt.Errorf("unknown command %q: want get, resolve or alloc", args[0])
}
