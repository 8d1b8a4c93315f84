package qmp_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
	"github.com/nodeless/nodeless/pkg/vmm/qmp/qmptest"
)

func connect(t *testing.T, onEvent func(qmp.Event), handle func(*qmptest.Peer, qmptest.Call) (any, *qmp.Error)) (*qmp.Client, *qmptest.Peer) {
	t.Helper()
	peer, conn := qmptest.Start(t, handle)
	c, err := qmp.New(t.Context(), conn, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, peer
}

func ignore(qmp.Event) {}

func TestExecute(t *testing.T) {
	events := make(chan qmp.Event, 1)
	c, _ := connect(t, func(e qmp.Event) { events <- e }, func(p *qmptest.Peer, call qmptest.Call) (any, *qmp.Error) {
		switch call.Name {
		case "query-status":
			p.Event("RESUME", nil) // events come between command and answer
			return map[string]string{"status": "running"}, nil
		case "device_del":
			return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "Device 'x' not found"}
		}
		return nil, nil
	})
	var status struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("query-status = %v, %v", status, err)
	}
	if e := <-events; e.Name != "RESUME" {
		t.Errorf("event = %q", e.Name)
	}
	var refused *qmp.Error
	if err := c.Execute(t.Context(), "device_del", map[string]string{"id": "x"}, nil); !errors.As(err, &refused) || refused.Class != qmp.ClassDeviceNotFound {
		t.Errorf("device_del = %v, want the class of the refusal", err)
	}
}

func TestAnswersFindTheirCallers(t *testing.T) {
	c, _ := connect(t, ignore, func(_ *qmptest.Peer, call qmptest.Call) (any, *qmp.Error) { return call.Name, nil })
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		wg.Go(func() {
			var got string
			if err := c.Execute(t.Context(), name, nil, &got); err != nil || got != name {
				t.Errorf("%s = %q, %v", name, got, err)
			}
		})
	}
	wg.Wait()
}

func TestSendFileCarriesTheDescriptor(t *testing.T) {
	c, peer := connect(t, ignore, func(*qmptest.Peer, qmptest.Call) (any, *qmp.Error) { return nil, nil })
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.SendFile(t.Context(), "tap", f); err != nil {
		t.Fatal(err)
	}
	calls := peer.Calls()
	last := calls[len(calls)-1]
	if last.Name != "getfd" || !last.File || string(last.Args) != `{"fdname":"tap"}` {
		t.Errorf("peer saw %s %s, descriptor %v", last.Name, last.Args, last.File)
	}
}

func TestEndOfQEMUEndsWaitingCalls(t *testing.T) {
	c, _ := connect(t, ignore, func(p *qmptest.Peer, _ qmptest.Call) (any, *qmp.Error) { p.Hangup(); return nil, nil })
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("quit = %v, want ErrClosed", err)
	}
	<-c.Done()
	if err := c.Execute(t.Context(), "stop", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("a later command = %v, want ErrClosed", err)
	}
}

func TestCallerMayGiveUp(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	c, _ := connect(t, ignore, func(*qmptest.Peer, qmptest.Call) (any, *qmp.Error) { <-hold; return nil, nil })
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if err := c.Execute(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("stop = %v, want the context's error", err)
	}
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/qmp", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := qmp.New(ctx, conn, ignore); !errors.Is(err, context.Canceled) {
		t.Errorf("New = %v, want the context's error", err)
	}
}
