package testbed

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// waitForChild blocks until a child may have ended. The tick covers a signal that came before we listened.
func waitForChild() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCHLD)
	defer signal.Stop(c)
	select {
	case <-c:
	case <-time.After(200 * time.Millisecond):
	}
}
