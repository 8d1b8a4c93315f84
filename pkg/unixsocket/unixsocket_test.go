package unixsocket_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/unixsocket"
)

func TestListenReplacesAStaleSocketAndClosesItToOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := unixsocket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v; want mode 0600", info, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	conn.Close()
}

func TestListenSaysWhatToDo(t *testing.T) {
	if _, err := unixsocket.Listen(t.Context(), filepath.Join(t.TempDir(), "none", "s")); len(hint.Of(err)) != 1 {
		t.Errorf("Listen in a folder that is not there = %v, want a hint", err)
	}
}
