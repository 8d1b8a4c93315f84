package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Offsets in the header of a bzImage: Documentation/arch/x86/boot.rst of the kernel.
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202
	offPayload       = 0x248
	offPayloadLength = 0x24c
	headerEnd        = 0x250
	sectorSize       = 512
)

// Bounds of what is unpacked: the kernel's build lets zstd look back over 128 MiB, and a kernel of Debian's has some 60 MiB.
const (
	window  = 128 << 20
	largest = 512 << 20
)

var errShort = errors.New("file is too short")

// extract gives the ELF kernel inside a bzImage.
func extract(image []byte) ([]byte, error) {
	payload, err := findPayload(image)
	if err != nil {
		return nil, err
	}
	kernel, err := unpack(payload)
	if err != nil {
		return nil, err
	}
	if _, err := elf.NewFile(bytes.NewReader(kernel)); err != nil {
		return nil, fmt.Errorf("parse the unpacked kernel: %w", err)
	}
	return kernel, nil
}

func findPayload(image []byte) ([]byte, error) {
	if len(image) < headerEnd {
		return nil, errShort
	}
	if string(image[offMagic:offMagic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage: no HdrS")
	}
	sects := int(image[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*sectorSize + int(binary.LittleEndian.Uint32(image[offPayload:]))
	end := start + int(binary.LittleEndian.Uint32(image[offPayloadLength:]))
	if start > end || end > len(image) {
		return nil, errShort
	}
	return image[start:end], nil
}

// unpack reads a zstd frame, behind which the kernel's build writes the unpacked size as four bytes.
func unpack(in []byte) ([]byte, error) {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd} // RFC 8878, 3.1.1
	if len(in) < 8 || !bytes.HasPrefix(in, magic) {
		return nil, errors.New("the payload is not zstd (another kernel release?)")
	}
	size := int(binary.LittleEndian.Uint32(in[len(in)-4:]))
	if size > largest {
		return nil, fmt.Errorf("the kernel says that it unpacks to %d bytes; %d are believed", size, largest)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderMaxMemory(largest), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer d.Close()
	out, err := d.DecodeAll(in[:len(in)-4], make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if len(out) != size {
		return nil, fmt.Errorf("unpacked %d bytes, the kernel says %d", len(out), size)
	}
	return out, nil
}
