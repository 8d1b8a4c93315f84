package vmm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// openDescriptors counts this process's descriptors.
func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// served is what became of a client's bytes.
type served struct {
	calls   int    // requests that reached the API
	replies []byte // all that was sent back
}

// serveBytes sends data to the API of a microVM that has been created and not booted, cut as plan says: each byte of it is
// one message, its length and, in the low bits, how many descriptors go with it. No descriptor may be left open.
func serveBytes(t *testing.T, data, plan []byte) served {
	t.Helper()
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	before := openDescriptors(t)
	near, far := socket(t)
	v := newVM("test", HostConfig{Accel: AccelTCG, RootPorts: 2}, slog.New(slog.DiscardHandler))
	v.state = stateCreated
	a := &api{vm: v, stop: func() {}}
	var out served
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveConn(t.Context(), far, func(ctx context.Context, r request) (any, error) {
			out.calls++
			if len(r.files) > maxFiles {
				t.Errorf("a request with %d descriptors was served", len(r.files))
			}
			if strings.HasSuffix(r.path, "vm.boot") {
				closeFiles(r.files)
				return nil, nil // what it starts is not for these tests
			}
			return a.handle(ctx, r)
		})
	}()
	go func() {
		for i := 0; len(data) > 0; i++ {
			size, fds := len(data), 0
			if i < len(plan) {
				size, fds = min(len(data), 1+int(plan[i]>>3)*8), []int{0, 0, 0, 1, 2, 3, 64, 70}[plan[i]&7]
			}
			var rights []byte
			if fds > 0 {
				list := make([]int, fds)
				for j := range list {
					list[j] = int(null.Fd())
				}
				rights = unix.UnixRights(list...)
			}
			n, _, err := near.WriteMsgUnix(data[:size], rights, nil)
			if err != nil {
				break // the server has hung up
			}
			data = data[n:]
		}
		_ = near.CloseWrite()
	}()
	out.replies, _ = io.ReadAll(near) // a reset is an end too
	<-done
	must(t, v.cleanup(false))
	near.Close()
	if n := openDescriptors(t) - before; n > 0 {
		t.Errorf("%d descriptors are left open", n)
	}
	return out
}

func call(method, name, body string) []byte {
	return fmt.Appendf(nil, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", method, name, len(body), body)
}

// FuzzHTTP is a client that may send anything, with any number of descriptors anywhere: each request has one reply, and no
// descriptor stays open.
func FuzzHTTP(f *testing.F) {
	nic := `{"mac":"02:00:00:00:00:01"}`
	f.Add(call("GET", "vmm.ping", ""), []byte{})
	f.Add(call("PUT", "vm.add-net", nic), []byte{0xfb})
	f.Add(bytes.Repeat(call("PUT", "vm.add-net", nic), 3), []byte{3, 4, 5, 0xfb, 0xfc})
	f.Add(append(call("PUT", "vm.add-net", `{"mac":"x,y"}`), call("GET", "vm.info", "")...), []byte{0xfe})
	f.Add([]byte("PUT vm.add-net HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"), []byte{0xfc})
	f.Add(append(call("PUT", "vm.add-disk", `{"path":"/dev/null"}`), call("PUT", "vm.resize", `{"desired_vcpus":2}`)...), []byte{0x0c, 0x0c})
	f.Add(append(call("PUT", "vm.create", `{}`), call("PUT", "vm.remove-device", `{"id":"x"}`)...), []byte{0xff})
	f.Add([]byte("GET http://h/api/v1/vm.info?x HTTP/1.0\r\nConnection: close\r\nContent-Length: +1\r\n\r\n1"), []byte{6, 6, 6})
	f.Add([]byte("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), []byte{7})
	f.Add([]byte("GET / HTTP/1.1\r\nA: b\r\n c\r\nA\r\n: \r\n\r\n"), []byte{})
	f.Fuzz(func(t *testing.T, data, plan []byte) {
		got := serveBytes(t, data, plan)
		in := bufio.NewReader(bytes.NewReader(got.replies))
		replies := 0
		for ; ; replies++ {
			if _, err := in.Peek(1); err != nil {
				break
			}
			reply, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("reply %d of %q: %v", replies, got.replies, err)
			}
			if _, err := io.Copy(io.Discard, reply.Body); err != nil {
				t.Fatalf("body of reply %d of %q: %v", replies, got.replies, err)
			}
		}
		if replies != got.calls && replies != got.calls+1 { // one more tells of a request that is none
			t.Errorf("%d replies to %d requests: %q", replies, got.calls, got.replies)
		}
	})
}

func TestRequestsHaveLimits(t *testing.T) {
	const most = maxHeader + maxBody // what is not read any more would turn the reply into a reset
	small := []byte("GET / HTTP/1.1\r\n\r\n")
	many := bytes.Repeat([]byte{6 + 0}, 4) // 64 descriptors with each byte
	for _, tt := range []struct {
		name       string
		data, plan []byte
		want       string
	}{
		{"a line that does not end", bytes.Repeat([]byte("x"), most), nil, errTooLong.Error()},
		{"a header that does not end", append([]byte("GET / HTTP/1.1\r\n"), bytes.Repeat([]byte("A: b\r\n"), most/6)...)[:most], nil, errTooLong.Error()},
		{"too many descriptors at once", small, []byte{7}, errTooManyFiles.Error()},
		{"too many descriptors in sum", small, many, errTooManyFiles.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := serveBytes(t, tt.data, tt.plan)
			if got.calls != 0 || !strings.HasPrefix(string(got.replies), "HTTP/1.1 400 ") || !strings.Contains(string(got.replies), tt.want) {
				t.Errorf("%d calls, reply %q, want %q", got.calls, got.replies, tt.want)
			}
		})
	}
	if got := serveBytes(t, bytes.Repeat(small, 100_000), nil); got.calls != 100_000 { // each has the whole allowance
		t.Errorf("%d of 100000 requests were served on one connection", got.calls)
	}
}

// option is one key of a QEMU option string; keys without a value have ok false.
type option struct {
	key, value string
	ok         bool
}

// qemuOptions takes an option string apart as QEMU does: at single commas; two stand for one.
func qemuOptions(s string) []option {
	var out []option
	for _, part := range strings.Split(strings.ReplaceAll(s, ",,", "\x00"), ",") {
		var o option
		o.key, o.value, o.ok = strings.Cut(strings.ReplaceAll(part, "\x00", ","), "=")
		out = append(out, o)
	}
	return out
}

// shape is what a command line means, without the values: which options, and which keys each has.
func shape(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		out = append(out, args[i])
		switch args[i] {
		case "-no-user-config", "-nodefaults", "-no-reboot":
		case "-L", "-kernel", "-initrd", "-append", "-display", "-serial":
			i++ // its value is taken whole
		default:
			i++
			for _, o := range qemuOptions(args[i]) {
				out = append(out, fmt.Sprintf("\t%s %t", o.key, o.ok))
			}
		}
	}
	return out
}

// tame replaces what a string of a Spec says by something harmless, if it says anything.
func tame(s *string) {
	if *s != "" {
		*s = "x"
	}
}

// FuzzVMConfig is a description of a microVM in which anything stands: it is refused, or QEMU gets the same options as for
// a harmless one with the same numbers.
func FuzzVMConfig(f *testing.F) {
	f.Add([]byte(`{"cpus":{"boot_vcpus":1,"max_vcpus":8},"memory":{"size":268435456,"hotplug_size":1073741824,"shared":true},
		"payload":{"kernel":"/k","cmdline":"a=b root=/dev/vda","initramfs":"/i"},"fs":[{"tag":"kataShared","socket":"/run/vc/s","queue_size":1024}],"vsock":{"socket":"/run/a"}}`), "abc", "02:00:00:00:00:01", true)
	f.Add([]byte(`{"cpus":{"boot_vcpus":4096},"memory":{"size":70368744177664,"hotplug_size":9223372036854775807,"hugepages":true},
		"payload":{"kernel":"-k,x=y","cmdline":"a,b","initramfs":"i,j"},"fs":[{"tag":"t,x=y","socket":",,s,server=on","queue_size":-1}],"vsock":{"socket":"s,x"}}`), "a,debug-threads=off", "02:00:00:00:00:01,x=y", false)
	f.Add([]byte(`{"disks":[1],"cpus":{"boot_vcpus":9223372036854775807,"max_vcpus":-1},"memory":{"size":9223372036854775807}}`), "", "", false)
	f.Fuzz(func(t *testing.T, body []byte, id, mac string, kvm bool) {
		c, raw, err := parseVMConfig(body)
		if err != nil {
			return
		}
		if raw == nil {
			t.Error("nothing to repeat in vm.info")
		}
		cfg := HostConfig{Accel: AccelTCG, Bundle: "/b", TSCKHz: 1_000_000}
		if kvm {
			cfg.Accel = AccelKVM
		}
		v := newVM(id, cfg, slog.New(slog.DiscardHandler))
		spec := v.newSpec(c, nil)
		spec.ScratchFD = 7
		spec.Nets = []NetSpec{{ID: "net0", MAC: mac, TapFDs: []int{6}}}
		if spec.MaxMemory < spec.Memory || spec.MaxVCPUs < spec.VCPUs || spec.VCPUs < 1 || spec.Memory < mib {
			t.Errorf("sizes that make no sense: %+v", spec)
		}
		harmless := spec
		harmless.Nets = []NetSpec{{ID: "net0", MAC: "x", TapFDs: []int{6}}}
		for _, s := range []*string{&harmless.Name, &harmless.Kernel, &harmless.Initrd, &harmless.Cmdline} {
			tame(s)
		}
		if spec.Share != nil {
			harmless.Share = &ShareSpec{Tag: "x", Socket: "x", FD: spec.Share.FD, QueueSize: spec.Share.QueueSize}
		}
		args := Args(spec)
		if diff := cmp.Diff(shape(Args(harmless)), shape(args)); diff != "" {
			t.Errorf("what QEMU is told depends on a name (-harmless +got):\n%s", diff)
		}
		for _, p := range strings.Fields(spec.Cmdline) {
			if kvm && (p == "mitigations=off" || p == "nokaslr") && !strings.Contains(c.Payload.Cmdline, p) {
				t.Errorf("%q of an emulated guest reaches one on KVM", p)
			}
		}
	})
}

// FuzzConsole is a guest that writes anything to its console: what of it comes into error messages, and so into events and
// terminals, is one short printable line.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("[    1.0] Kernel panic - not syncing: \x1b[31mred\r\n"), []byte("x\n"))
	f.Add(bytes.Repeat([]byte("long "), 2000), []byte("\u202e\x00\xff\r\n\n\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var log boundedLog
		_, _ = log.Write(a) // never fails
		_, _ = log.Write(b)
		got := log.digest()
		for _, r := range got {
			if r != '\t' && !unicode.IsPrint(r) {
				t.Errorf("%q has %U in it", got, r)
			}
		}
		if len(got) > 4*tailLimit { // a byte that is no text becomes a character of three
			t.Errorf("%d bytes are no short line", len(got))
		}
	})
}

func TestMACAddressesAreChecked(t *testing.T) {
	v := newVM("test", HostConfig{}, slog.New(slog.DiscardHandler))
	v.state = stateCreated
	for _, mac := range []string{"", "x", "02:00:00:00:00:01,mq=on", "02:00:00:00:00:00:00:01"} {
		f, err := os.Open(os.DevNull)
		must(t, err)
		if _, err := v.addNet(t.Context(), netConfig{Mac: mac}, []*os.File{f}); err == nil {
			t.Errorf("a NIC with the address %q was taken", mac)
		}
		if f.Close() == nil {
			t.Errorf("the descriptor of a NIC with the address %q stayed open", mac)
		}
	}
	for i := range maxNets + 1 {
		f, err := os.Open(os.DevNull)
		must(t, err)
		_, err = v.addNet(t.Context(), netConfig{Mac: fmt.Sprintf("02:00:00:00:00:%02x", i)}, []*os.File{f})
		if (err != nil) != (i == maxNets) {
			t.Errorf("NIC %d of at most %d: %v", i+1, maxNets, err)
		}
	}
	must(t, v.cleanup(false))
}
