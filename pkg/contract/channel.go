package contract

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

// Services of the guest, by the port that a stream of the agent channel names first (pkg/agentmux).
const (
	AgentPort   uint32 = 1024 // Kata's agent protocol; the number is Kata's vsock port
	ForwardPort uint32 = 1025 // TCP ports of the guest's loopback, for pkg/worker/cri
	ClockPort   uint32 = 1026 // the guest's clock, which nodeless-vmm keeps right
)

// Answers of the service at ForwardPort, one byte.
const (
	ForwardFailed byte = 0
	ForwardOK     byte = 1
)

// Connect is the line in which a client of AgentSocket names a service, as with Firecracker's and Cloud Hypervisor's hybrid vsock. Kata,
// the shim and pkg/worker/cri write it, nodeless-vmm reads it.
func Connect(port uint32) string { return fmt.Sprintf("CONNECT %d\n", port) }

// Connected is nodeless-vmm's answer to Connect: what follows is the service's.
func Connected(port uint32) string { return fmt.Sprintf("OK %d\n", port) }

// ParseConnect reads a line of Connect without its end.
func ParseConnect(line string) (port uint32, err error) {
	word, number, _ := strings.Cut(line, " ")
	n, err := strconv.ParseUint(number, 10, 32)
	if word != "CONNECT" || err != nil {
		return 0, fmt.Errorf("parse request %q: not CONNECT and a port", line)
	}
	return uint32(n), nil
}

// Marker is the byte that begins a control frame, at least twice and MarkerRun times as it is sent. In data there is a zero behind each of
// it, so that data never looks like a frame.
const (
	Marker    = 0xFF
	MarkerRun = 8
)

// Kinds of control frames.
const (
	KindHello = 'H' // host to guest: nonce, time, entropy
	KindAck   = 'A' // guest to host: the nonce of the Hello
)

// EntropySize is how many random bytes a Hello carries.
const EntropySize = 32

// magic begins a control frame behind its marker.
const magic = "nodeless-agent/1"

// ControlSize is the length of a control frame behind its marker.
const ControlSize = len(magic) + 1 + 8 + 8 + EntropySize + 4

// Hello is what a host tells a guest when it attaches: nodeless-vmm to the guest that it has booted.
type Hello struct {
	Time    time.Time         // the host's wall clock
	Entropy [EntropySize]byte // fresh random bytes for the guest's pool
}

// Control is a frame of the agent channel outside its data. Both ends write it and read it.
type Control struct {
	Kind  byte
	Nonce uint64
	Hello Hello
}

// Encode returns the frame with its marker in front.
func (c Control) Encode() []byte {
	b := make([]byte, 0, MarkerRun+ControlSize)
	for range MarkerRun {
		b = append(b, Marker)
	}
	b = append(b, magic...)
	b = append(b, c.Kind)
	b = binary.BigEndian.AppendUint64(b, c.Nonce)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Hello.Time.UnixNano()))
	b = append(b, c.Hello.Entropy[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[MarkerRun:]))
}

// DecodeControl parses a frame without its marker.
func DecodeControl(b []byte) (Control, error) {
	if len(b) != ControlSize || string(b[:len(magic)]) != magic {
		return Control{}, fmt.Errorf("parse control frame: unknown magic %q", b[:min(len(b), len(magic))])
	}
	body, sum := b[:ControlSize-4], binary.BigEndian.Uint32(b[ControlSize-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return Control{}, errors.New("parse control frame: checksum differs")
	}
	b = b[len(magic):]
	c := Control{Kind: b[0], Nonce: binary.BigEndian.Uint64(b[1:])}
	c.Hello.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[9:])))
	copy(c.Hello.Entropy[:], b[17:])
	return c, nil
}
