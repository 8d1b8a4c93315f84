// Command hello is the image that nodeless brings along: a web server that tells which guest answers, and a few
// subcommands with which examples and tests look around from inside a Pod.
//
//	hello                     serve on :8080 (or $PORT), HTTP and gRPC's health check; unhealthy while /tmp/unhealthy exists;
//	                          /burn?ms=50 uses so much time of a CPU for its answer
//	hello get [-k] URL        print status and body of an HTTP GET; fails unless the status is 2xx
//	hello resolve NAME        print the addresses of NAME, one a line
//	hello alloc MB            use MB megabytes of memory, and hold them if $HOLD is set
//	hello listen SOCKET       answer on a unix socket, in capitals
//	hello ask SOCKET TEXT     print what a unix socket answers
//	hello poke FILE TEXT      write to the beginning of a file through a shared mapping
//	hello lock KIND FILE TIME lock a file (KIND is record or whole) and hold it
//	hello notice FOLDER       print the names that appear in a folder, as they do
//	hello same FOLDER TEXT    read a ConfigMap's files until they hold TEXT; fails if they ever differ
//	hello primes I N LIMIT    count the primes of part I (from 0) of N of the numbers below LIMIT
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
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
	commands := map[string]func([]string) error{
		"get": get, "resolve": resolve, "alloc": alloc,
		"listen": listen, "ask": ask, "poke": poke, "lock": lock, "notice": notice, "same": same,
		"primes": primes,
	}
	if run := commands[args[0]]; run != nil {
		return run(args[1:])
	}
	return fmt.Errorf("unknown command %q: want one of %s", args[0], strings.Join(slices.Sorted(maps.Keys(commands)), ", "))
}
