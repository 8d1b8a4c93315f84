package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// kin are the variables by which systemd tells a service how to speak to it.
var kin = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"}

// TestSystemdIsToldBySocket: what the node says comes in whole, by a socket in a file system and by an abstract one.
func TestSystemdIsToldBySocket(t *testing.T) {
	for name, address := range map[string]string{"file": filepath.Join(t.TempDir(), "s"), "abstract": fmt.Sprint("@nodeless-test-", os.Getpid())} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			t.Setenv("NOTIFY_SOCKET", address)
			s, err := takeSupervisor()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			expectState(t, conn, "READY=1\nSTATUS=the node is Ready")
			select {
			case err := <-ended:
				t.Fatalf("Run ended by itself: %v", err)
			default:
			}
			if err := s.tell("STOPPING=1"); err != nil {
				t.Fatal(err)
			}
			expectState(t, conn, "STOPPING=1")
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func expectState(t *testing.T, conn *net.UnixConn, want string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Fatalf("systemd heard %q, %v; want %q", buf[:n], err, want)
	}
}

// TestNobodyElseSpeaksToSystemd: neither children nor linked parts find how, also while it is spoken to.
func TestNobodyElseSpeaksToSystemd(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range kin {
		t.Setenv(name, address)
	}
	s, err := takeSupervisor()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tell("READY=1"); err != nil {
		t.Fatal(err)
	}
	for _, line := range os.Environ() {
		name, _, _ := strings.Cut(line, "=")
		for _, gone := range kin {
			if name == gone {
				t.Errorf("%s is still in the environment", name)
			}
		}
	}
}

// TestWithoutSystemdNothingIsTold, which is no fault; a socket that is named and not there is one.
func TestWithoutSystemdNothingIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s, err := takeSupervisor()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatalf("Run ended by itself: %v", <-ended)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if s, err = takeSupervisor(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("a socket of nobody takes what it is told")
	}
}
