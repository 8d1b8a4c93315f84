package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// bzImage is a file with a payload where the header says.
func bzImage(payload []byte) []byte {
	image := make([]byte, 2*sectorSize)
	copy(image[offMagic:], "HdrS")
	image[offSetupSects] = 1
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)))
	return append(image, payload...)
}

// packedAs is content as the kernel's build packs it, with a size that need not be right.
func packedAs(t *testing.T, content []byte, size uint32) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return binary.LittleEndian.AppendUint32(e.EncodeAll(content, nil), size)
}

func TestUnpack(t *testing.T) {
	content := []byte(strings.Repeat("kernel ", 1000))
	payload, err := findPayload(bzImage(packedAs(t, content, uint32(len(content)))))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unpack(payload); err != nil || !bytes.Equal(got, content) {
		t.Errorf("unpack = %d bytes, %v; want %d", len(got), err, len(content))
	}
}

func TestNoKernelIsRefused(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 4096)
	beyond := bzImage(nil)
	binary.LittleEndian.PutUint32(beyond[offPayloadLength:], 1<<20)
	cut := packedAs(t, content, 4096)
	cut = append(cut[:len(cut)-8], cut[len(cut)-4:]...)
	for name, in := range map[string][]byte{
		"empty":                      nil,
		"text":                       content,
		"no ELF file within":         bzImage(packedAs(t, content, 4096)),
		"payload of another kind":    bzImage(make([]byte, 100)),
		"payload longer than a file": beyond,
		"size that is not true":      bzImage(packedAs(t, content, 4095)),
		"size beyond belief":         bzImage(packedAs(t, content, 1<<31)),
		"damaged":                    bzImage(cut),
	} {
		if _, err := extract(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
