// Command pause holds a sandbox open where something insists on a process: it waits for a signal. In a microVM the
// agent keeps the pause container in its state only and never starts it.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
