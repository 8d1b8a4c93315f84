package vmm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/agentmux"
	"github.com/nodeless/nodeless/pkg/hint"
)

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }

// socket is a connected pair of unix connections.
func socket(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	near, f, err := socketPair()
	must(t, err)
	c, err := net.FileConn(f)
	must(t, err)
	f.Close()
	t.Cleanup(func() { near.Close(); c.Close() })
	return near, c.(*net.UnixConn)
}

func TestServeConn(t *testing.T) {
	long := strings.Repeat("x", maxBody)
	tests := []struct {
		name, send string
		want       []string // first lines of the replies
	}{
		{name: "several requests on one connection", send: "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: l\r\n\r\nPUT http://localhost/b?x=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
			want: []string{"HTTP/1.1 200 OK", `"GET /api/v1/vmm.ping 0"`, "HTTP/1.1 200 OK", `"PUT /b 2"`}},
		{name: "connection is closed when asked", send: "GET /a HTTP/1.1\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
			want: []string{"HTTP/1.1 200 OK", `"GET /a 0"`}},
		{name: "the largest body", send: fmt.Sprintf("PUT /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", maxBody, long), want: []string{"HTTP/1.1 200 OK", fmt.Sprintf(`"PUT /a %d"`, maxBody)}},
		{name: "a body too large", send: "PUT /a HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", want: []string{"HTTP/1.1 400 Bad Request", "parse content length \"99999999\""}},
		{name: "no HTTP", send: "hello\r\n", want: []string{"HTTP/1.1 400 Bad Request", `parse request line "hello"`}},
		{name: "chunked", send: "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", want: []string{"HTTP/1.1 400 Bad Request", "read body: transfer encodings are not supported"}},
		{name: "no content", send: "PUT /none HTTP/1.1\r\n\r\n", want: []string{"HTTP/1.1 204 No Content"}},
		{name: "an error is told with what to do", send: "PUT /mend HTTP/1.1\r\n\r\n", want: []string{"HTTP/1.1 500 Internal Server Error", "open x; mend it"}},
		{name: "an error is told", send: "PUT /fail HTTP/1.1\r\n\r\n", want: []string{"HTTP/1.1 500 Internal Server Error", "no luck"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := socket(t)
			go serveConn(t.Context(), far, func(_ context.Context, r request) (any, error) {
				switch r.path {
				case "/none":
					return nil, nil
				case "/mend":
					return nil, &hint.Error{Op: "open", On: "x", Do: "mend it"}
				case "/fail":
					return nil, errors.New("no luck")
				}
				return fmt.Sprintf("%s %s %d", r.method, r.path, len(r.body)), nil
			})
			go func() {
				_, _ = io.WriteString(near, tt.send)
				_ = near.CloseWrite()
			}()
			raw, err := io.ReadAll(near)
			must(t, err)
			var got []string
			for line := range strings.Lines(strings.ReplaceAll(string(raw), "HTTP/1.1", "\nHTTP/1.1")) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Content-") && !strings.HasPrefix(line, "Connection") {
					got = append(got, line)
				}
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("replies = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestReplyIsSentToItsEndWhenTheServerStops(t *testing.T) {
	near, far := socket(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveConn(ctx, far, func(context.Context, request) (any, error) { stop(); return strings.Repeat("x", 1000), nil })
	}()
	_, err := io.WriteString(near, "GET /a HTTP/1.1\r\n\r\n")
	must(t, err)
	raw, err := io.ReadAll(near)
	must(t, err)
	if !strings.HasSuffix(string(raw), `x"`) {
		t.Errorf("reply = %q", raw)
	}
	<-done
}

func TestDescriptorsComeWithTheirRequest(t *testing.T) {
	near, far := socket(t)
	got := make(chan int, 2)
	go serveConn(t.Context(), far, func(_ context.Context, r request) (any, error) {
		got <- len(r.files)
		closeFiles(r.files)
		return nil, nil
	})
	f, err := os.Open(os.DevNull)
	must(t, err)
	defer f.Close()
	_, _, err = near.WriteMsgUnix([]byte("PUT /a HTTP/1.1\r\n\r\n"), unix.UnixRights(int(f.Fd()), int(f.Fd())), nil)
	must(t, err)
	in := bufio.NewReader(near)
	_, err = in.ReadString('\n')
	must(t, err)
	_, err = io.WriteString(near, "PUT /b HTTP/1.1\r\n\r\n")
	must(t, err)
	if a, b := <-got, <-got; a != 2 || b != 0 {
		t.Errorf("descriptors = %d, %d, want 2, 0", a, b)
	}
}

func TestScratch(t *testing.T) {
	dir := t.TempDir()
	template := filepath.Join(dir, "template")
	f, err := os.Create(template)
	must(t, err)
	must(t, f.Truncate(1<<30))
	for _, off := range []int64{0, 5 << 20, 1<<30 - 3} {
		_, err := f.WriteAt([]byte("end"), off)
		must(t, err)
	}
	must(t, f.Close())
	disks := filepath.Join(dir, "disks")
	must(t, os.MkdirAll(disks, 0o700))
	s, err := newScratch(template, disks, "abc")
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(s.path, &st))
	if st.Size != 1<<30 || st.Blocks*512 > 1<<20 {
		t.Errorf("copy has %d bytes, %d on disk; want 1 GiB with its holes", st.Size, st.Blocks*512)
	}
	for _, off := range []int64{0, 5 << 20, 1<<30 - 3} {
		got := make([]byte, 3)
		if _, err := s.file.ReadAt(got, off); err != nil || string(got) != "end" {
			t.Errorf("data at %d = %q, %v", off, got, err)
		}
	}
	if _, err := newScratch(template, disks, "abc"); err == nil {
		t.Error("a second disk of the same name was made")
	}
	must(t, s.remove())
	if left, err := os.ReadDir(disks); err != nil || len(left) > 0 {
		t.Errorf("left after the disk was removed: %v, %v", left, err)
	}
}

func TestConsoleLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	l, err := newBoundedLog(path, 1000)
	must(t, err)
	for i := range 500 {
		fmt.Fprintf(l, "line %d\r\n", i)
	}
	for _, p := range []string{path, path + ".old"} {
		if st, err := os.Stat(p); err != nil || st.Size() > 1000 {
			t.Errorf("%s: %v, %v, want at most 1000 bytes", p, st, err)
		}
	}
	fmt.Fprint(l, "\x1b[2Jno newline")
	if got := l.digest(); got != "line 498; line 499; [2Jno newline" {
		t.Errorf("digest = %q", got)
	}
	fmt.Fprint(l, "\n[ 1.0] Kernel panic - not syncing: no init\nCall Trace:\n a\n b\n c\n")
	if got := l.digest(); got != "[ 1.0] Kernel panic - not syncing: no init" {
		t.Errorf("digest of a panic = %q", got)
	}
	must(t, l.drop(false))
	if left, _ := filepath.Glob(path + "*"); left != nil {
		t.Errorf("left over: %q", left)
	}
}

func TestOldLogsAreDeleted(t *testing.T) {
	dir := t.TempDir()
	for i := range 6 {
		path := filepath.Join(dir, fmt.Sprintf("pod%d.log", i))
		must(t, os.WriteFile(path, nil, 0o600))
		when := time.Unix(int64(1_700_000_000+i), 0)
		must(t, os.Chtimes(path, when, when))
	}
	must(t, os.WriteFile(filepath.Join(dir, "kvm-probe.json"), nil, 0o600))
	pruneLogs(dir, 2)
	left, err := filepath.Glob(dir + "/*")
	must(t, err)
	want := []string{dir + "/kvm-probe.json", dir + "/pod4.log", dir + "/pod5.log"}
	if !slices.Equal(left, want) {
		t.Errorf("left = %q, want %q", left, want)
	}
}

func TestAgentChannel(t *testing.T) {
	near, far := socket(t)
	a := newAgentChannel(slog.New(slog.DiscardHandler))
	path := filepath.Join(t.TempDir(), "clh.sock")
	must(t, a.listen(path))
	dial := func(hello string) net.Conn {
		c, err := net.Dial("unix", path)
		must(t, err)
		_, err = io.WriteString(c, hello)
		must(t, err)
		return c
	}
	for range 3 {
		dial("CONNECT 1024\n").Close() // Kata hangs up on a guest that boots slowly
	}
	dial("GET / HTTP/1.1\r\n").Close()
	waiting := dial("CONNECT 1024\nearly ")
	l, err := agentmux.Listen(t.Context(), far, agentmux.Guest{})
	must(t, err)
	defer l.Close()
	go echo(l)
	go a.attach(near)
	second := dial("CONNECT 1024\n")
	for c, send := range map[net.Conn]string{waiting: "bird\n", second: "second\n"} {
		_, err := io.WriteString(c, send)
		must(t, err)
		in := bufio.NewReader(c)
		if line, err := in.ReadString('\n'); line != "OK 1024\n" {
			t.Fatalf("handshake = %q, %v", line, err)
		}
		want := map[string]string{"bird\n": "early bird\n"}[send]
		if want == "" {
			want = send
		}
		if line, err := in.ReadString('\n'); line != want {
			t.Errorf("echo = %q, %v, want %q", line, err, want)
		}
		must(t, c.(*net.UnixConn).CloseWrite())
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("after the end: %q, %v", rest, err)
		}
	}
	must(t, a.close())
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left over")
	}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			c.Close()
		}()
	}
}

func TestAgentChannelEndsWaitingClients(t *testing.T) {
	a := newAgentChannel(slog.New(slog.DiscardHandler))
	path := filepath.Join(t.TempDir(), "clh.sock")
	must(t, a.listen(path))
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "CONNECT 1024\n")
	must(t, err)
	a.end()
	if got, err := io.ReadAll(c); err != nil || string(got) != "OK 1024\n" {
		t.Errorf("waiting client got %q, %v, want an accepted and ended connection", got, err)
	}
	must(t, a.close())
}

func TestTSCRate(t *testing.T) {
	for _, tt := range []struct {
		line string
		want uint64
	}{
		{"6,123,0,-;tsc: Detected 2596.124 MHz processor\n", 2596124},
		{"6,999,0,-;tsc: Refined TSC clocksource calibration: 2596.098 MHz\n", 2596098},
		{"6,1,0,-;tsc: Marking TSC unstable due to clocksource watchdog\n", 0},
		{"6,1,0,-;nothing\n", 0},
	} {
		if got := kmsgLine([]byte(tt.line)); got != tt.want {
			t.Errorf("kmsgLine(%q) = %d, want %d", tt.line, got, tt.want)
		}
	}
	if got, err := multToKHz(1<<31, 31); err != nil || got != 1_000_000 { // one nanosecond a cycle
		t.Errorf("multToKHz = %d, %v, want 1 GHz", got, err)
	}
	if _, err := multToKHz(1, 60); err == nil {
		t.Error("an absurd shift was taken")
	}
	khz, source, err := TSCKHz()
	t.Logf("this host: %d kHz by %s, %v", khz, source, err)
	cpu, cpuErr := cpuinfoKHz()
	if err == nil && cpuErr == nil && (khz > 2*cpu || cpu > 4*khz) {
		t.Errorf("TSC rate %d kHz is far from the CPU's speed %d kHz", khz, cpu)
	}
}
