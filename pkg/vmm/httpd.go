package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	maxBody   = 1 << 20
	maxHeader = 64 << 10 // bytes before the body
	maxFiles  = 64       // descriptors beside one request
)

var (
	errTooLong      = fmt.Errorf("request of more than %d bytes of header and %d of body", maxHeader, maxBody)
	errTooManyFiles = fmt.Errorf("request with more than %d descriptors, or than this process can hold", maxFiles)
)

// request is one REST call and the descriptors that came beside it; its handler owns them.
type request struct {
	method, path string
	body         []byte
	files        []*os.File
}

// handler answers a call: nil for "no content", anything else as JSON.
type handler func(context.Context, request) (any, error)

// statusError is an error with an HTTP status other than 500.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// serveConn answers the requests of one connection, one after the other. It is a small HTTP/1.1 server of
// our own: net/http cannot receive descriptors, and would double the size of a process that runs once
// per Pod.
func serveConn(ctx context.Context, c *net.UnixConn, handle handler) {
	defer c.Close()
	// A reply that is being sent is sent to its end.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer stop()
	in := &fdReader{conn: c}
	defer func() { closeFiles(in.take()) }()
	buf := bufio.NewReader(in)
	for {
		in.left = maxHeader + maxBody
		req, last, err := readRequest(buf)
		if err != nil {
			if in.fault != nil {
				err = in.fault // rather than what half a request looks like
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				_ = writeReply(c, nil, &statusError{400, err}, true)
			}
			return
		}
		req.files = in.take()
		reply, err := handle(ctx, req)
		if err := writeReply(c, reply, err, last); err != nil || last {
			return
		}
	}
}

// readRequest reads one request; last says that the client wants no more.
func readRequest(r *bufio.Reader) (req request, last bool, err error) {
	tp := textproto.NewReader(r)
	line, err := tp.ReadLine()
	if err != nil {
		return req, false, err
	}
	method, rest, ok1 := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || !strings.HasPrefix(proto, "HTTP/1.") {
		return req, false, fmt.Errorf("parse request line %.100q", line)
	}
	header, err := tp.ReadMIMEHeader()
	if err != nil {
		return req, false, fmt.Errorf("parse request header: %w", err)
	}
	if header.Get("Transfer-Encoding") != "" {
		return req, false, errors.New("read body: transfer encodings are not supported")
	}
	n := 0
	if text := header.Get("Content-Length"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 0 || n > maxBody {
			return req, false, fmt.Errorf("parse content length %.100q", text)
		}
	}
	req.method, req.body = method, make([]byte, n)
	req.path, _, _ = strings.Cut(target, "?")
	if i := strings.Index(req.path, "://"); i >= 0 { // absolute form: http://localhost/api/…
		if slash := strings.IndexByte(req.path[i+3:], '/'); slash >= 0 {
			req.path = req.path[i+3+slash:]
		}
	}
	if _, err := io.ReadFull(r, req.body); err != nil {
		return req, false, fmt.Errorf("read body: %w", err)
	}
	return req, strings.EqualFold(header.Get("Connection"), "close") || proto == "HTTP/1.0", nil
}

// writeReply sends a reply or an error, whose text Kata repeats in its own errors.
func writeReply(w io.Writer, reply any, err error, last bool) error {
	status, body, kind := 204, []byte(nil), "application/json"
	var own *statusError
	switch {
	case err != nil:
		status, body, kind = 500, []byte(told(err)), "text/plain"
		if errors.As(err, &own) {
			status = own.status
		}
	case reply != nil:
		status = 200
		if body, err = json.Marshal(reply); err != nil {
			status, body = 500, []byte("encode reply: "+err.Error())
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, reason(status))
	if body != nil {
		fmt.Fprintf(&b, "Content-Type: %s\r\nContent-Length: %d\r\n", kind, len(body))
	} else if status != 204 {
		b.WriteString("Content-Length: 0\r\n")
	}
	if last {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	_, err = io.WriteString(w, b.String())
	return err
}

func reason(status int) string {
	switch status {
	case 200:
		return "OK"
	case 204:
		return "No Content"
	case 400:
		return "Bad Request"
	case 404:
		return "Not Found"
	}
	return "Internal Server Error"
}

// fdReader reads a unix connection and collects the descriptors that arrive with the bytes.
type fdReader struct {
	conn  *net.UnixConn
	files []*os.File
	oob   []byte
	left  int   // bytes that the request may still take
	fault error // why it reads no more, if the client is to blame
}

func (r *fdReader) Read(p []byte) (int, error) {
	if r.oob == nil {
		r.oob = make([]byte, unix.CmsgSpace(maxFiles*4))
	}
	if r.left <= 0 {
		r.fault = errTooLong
	}
	if r.fault != nil {
		return 0, r.fault
	}
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p[:min(len(p), r.left)], r.oob)
	if r.fault = r.collect(r.oob[:oobn], flags); r.fault != nil {
		return 0, r.fault
	}
	if n <= 0 && err == nil {
		err = io.EOF
	}
	r.left -= max(n, 0)
	return max(n, 0), err
}

// collect keeps the descriptors of one message. A request that some of its descriptors were left out of is not served.
func (r *fdReader) collect(oob []byte, flags int) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // not descriptors
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if flags&unix.MSG_CTRUNC != 0 || len(r.files) > maxFiles {
		return errTooManyFiles
	}
	return nil
}

// take hands over what has been collected.
func (r *fdReader) take() []*os.File {
	files := r.files
	r.files = nil
	return files
}

// told is an error with what to do about it: who is told is another process, and passes on words only.
func told(err error) string {
	words := err.Error()
	for _, do := range hint.Of(err) {
		words += "; " + do
	}
	return words
}
