package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// spans are the parts of one Pod's way to Running, between events of containerd.
type spans struct {
	sandbox   time.Duration // sandbox container made → its task exists: shim, VM, agent
	container time.Duration // container made → its process started
}

// event is one line of `ctr events`.
type event struct {
	at    time.Time
	topic string
	id    string // the container's
}

// recorder collects containerd's events while Pods start one by one.
type recorder struct {
	cmd *exec.Cmd

	mu     sync.Mutex
	events []event // guarded by mu
}

func record(ctx context.Context, c *cluster) (*recorder, error) {
	r := &recorder{cmd: c.host.Command(ctx, c.host.Program, "ctr", "events")}
	r.cmd.Stdout = &lineWriter{line: func(line string) {
		if e, ok := parseEvent(line); ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		}
	}}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	return r, nil
}

func (r *recorder) stop() []event {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // killed, by intent
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

// parseEvent reads "2026-01-02 15:04:05.999 +0000 UTC k8s.io /tasks/create {json}".
func parseEvent(line string) (event, bool) {
	f := strings.SplitN(line, " ", 7)
	if len(f) != 7 {
		return event{}, false
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999999 -0700 MST", strings.Join(f[:4], " "))
	if err != nil {
		return event{}, false
	}
	var body struct {
		ID          string `json:"id"`
		ContainerID string `json:"container_id"`
	}
	if err := json.Unmarshal([]byte(f[6]), &body); err != nil {
		return event{}, false
	}
	return event{at: at, topic: f[5], id: body.ContainerID + body.ID}, true
}

// spansOf reads Pods of one container each, started one after the other: of each pair of containers the first is the sandbox.
func spansOf(events []event) []spans {
	var found []spans
	made := map[string]time.Time{}
	var order []string // of containers
	taken := map[string]time.Time{}
	for _, e := range events {
		switch e.topic {
		case "/containers/create":
			made[e.id] = e.at
			order = append(order, e.id)
		case "/tasks/create":
			taken[e.id] = e.at
		case "/tasks/start":
			if i := len(order) - 1; i%2 == 1 && order[i] == e.id {
				sandbox := order[i-1]
				found = append(found, spans{sandbox: taken[sandbox].Sub(made[sandbox]), container: e.at.Sub(made[e.id])})
			}
		}
	}
	return found
}

var reAnswered = regexp.MustCompile(`msg="guest agent answered" took=([0-9a-zµ.]+)`)

// bootTime reads how long the guest of the one running Pod took from QEMU's start to the agent's hello.
func bootTime(c *cluster) (time.Duration, bool) {
	logs, err := filepath.Glob(c.host.Path("/run/nodeless/vmm/*.log"))
	if err != nil {
		return 0, false
	}
	for _, log := range logs {
		b, err := os.ReadFile(log)
		if err != nil {
			continue
		}
		if m := reAnswered.FindSubmatch(b); m != nil {
			took, err := time.ParseDuration(string(m[1]))
			return took, err == nil
		}
	}
	return 0, false
}

// lineWriter calls line for each whole line written to it.
type lineWriter struct {
	line func(string)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}
