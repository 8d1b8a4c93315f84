package qmp_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/vmm/qmp"
	"github.com/nodeless/nodeless/pkg/vmm/qmp/qmptest"
)

// listen plays a QEMU that says all it has to say and hangs up; commands end with it, one way or the other.
func listen(t *testing.T, says []byte) (events int) {
	t.Helper()
	near, far := qmptest.Pair(t)
	go func() {
		go func() { _, _ = io.Copy(io.Discard, far) }()
		_, _ = far.Write(says)
		_ = far.CloseWrite()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := qmp.New(ctx, near, func(qmp.Event) { events++ })
	if err == nil {
		var places []struct {
			Type  string         `json:"type"`
			Props map[string]any `json:"props"`
		}
		_ = c.Execute(ctx, "query-hotpluggable-cpus", map[string]any{"x": 1}, &places)
		_ = c.Execute(ctx, "device_del", nil, nil)
		<-c.Done()
	}
	if ctx.Err() != nil {
		t.Error("a command waits for ever")
	}
	return events
}

const (
	greeting = `{"QMP": {"version": {}, "capabilities": ["oob"]}}` + "\r\n"
	accepted = `{"return": {}, "id": 1}` + "\r\n"
)

// FuzzAnswers is a QEMU that a guest has taken over: no panic and no hang, whatever it answers.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(greeting + accepted + `{"return": [{"type":"c","props":{"core-id":1}}], "id": 2}` + "\n" + `{"error":{"class":"DeviceNotFound","desc":"x"},"id":3}`))
	f.Add([]byte(greeting + greeting + accepted + greeting))
	f.Add([]byte(greeting + `{"event":"DEVICE_DELETED","data":{"device":"x"}}` + "\n\n" + accepted + accepted + `{"return":null,"id":2}`))
	f.Add([]byte(`{"QMP":null}` + "\n" + `[]` + "\n" + `{"id":"1"}` + "\n" + `{"id":-1}`))
	f.Add([]byte(strings.Repeat(`{"event":"X","data":`, 200) + "\n"))
	f.Fuzz(func(t *testing.T, says []byte) { listen(t, says) })
}

func TestAnAnswerHasAnEnd(t *testing.T) {
	event := `{"event":"X","data":"` + strings.Repeat("x", 1<<19) + `"}` + "\n"
	if n := listen(t, []byte(event+event)); n != 2 {
		t.Errorf("%d events of half a megabyte were heard, want 2", n)
	}
	if n := listen(t, []byte(strings.Repeat("[", 64<<20))); n != 0 { // the connection ends, and the memory stays free
		t.Errorf("%d events", n)
	}
}
