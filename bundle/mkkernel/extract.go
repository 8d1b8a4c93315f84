package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// Offsets in the header of a bzImage: Documentation/arch/x86/boot.rst of the kernel.
const (
	offSetupSects     = 0x1f1
	offMagic          = 0x202
	offPayload        = 0x248
	offPayloadLength  = 0x24c
	headerEnd         = 0x250
	sectorSize        = 512
	lz4LegacyMagic    = 0x184c2102
	lz4LegacyBlockMax = 8 << 20
)

var errShort = errors.New("file is too short")

// extract gives the ELF kernel inside a bzImage.
func extract(image []byte) ([]byte, error) {
	payload, err := findPayload(image)
	if err != nil {
		return nil, err
	}
	kernel, err := unpackLegacyLZ4(payload)
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

// unpackLegacyLZ4 reads the frame that `lz4 -l` writes: a magic, then blocks of at most 8 MiB with their
// packed length in front. The kernel's build appends the unpacked size as four more bytes.
func unpackLegacyLZ4(in []byte) ([]byte, error) {
	if len(in) < 8 || binary.LittleEndian.Uint32(in) != lz4LegacyMagic {
		return nil, errors.New("the payload is not LZ4 (another kernel release?)")
	}
	size := int(binary.LittleEndian.Uint32(in[len(in)-4:]))
	in = in[4 : len(in)-4]
	out := make([]byte, 0, size)
	for len(in) > 0 {
		if len(in) < 4 {
			return nil, errShort
		}
		n := int(binary.LittleEndian.Uint32(in))
		if n > len(in)-4 {
			return nil, errShort
		}
		block, err := unpackBlock(out[len(out):], in[4:4+n])
		if err != nil {
			return nil, err
		}
		out = append(out, block...)
		in = in[4+n:]
	}
	if len(out) != size {
		return nil, fmt.Errorf("unpacked %d bytes, the kernel says %d", len(out), size)
	}
	return out, nil
}

// unpackBlock decodes one LZ4 block and appends it to dst.
func unpackBlock(dst, in []byte) ([]byte, error) {
	start := len(dst)
	for len(in) > 0 {
		token := in[0]
		literals, rest, err := length(int(token>>4), in[1:])
		if err != nil || literals > len(rest) {
			return nil, errShort
		}
		dst = append(dst, rest[:literals]...)
		in = rest[literals:]
		if len(in) == 0 {
			break // the last sequence has literals only
		}
		if len(in) < 2 {
			return nil, errShort
		}
		distance := int(binary.LittleEndian.Uint16(in))
		match, rest, err := length(int(token&15), in[2:])
		if err != nil {
			return nil, err
		}
		in = rest
		from := len(dst) - distance
		if distance == 0 || from < start || len(dst)-start > lz4LegacyBlockMax {
			return nil, errors.New("damaged LZ4 block")
		}
		for i := range match + 4 { // byte by byte: source and target may overlap
			dst = append(dst, dst[from+i])
		}
	}
	return dst, nil
}

// length extends a four-bit length: 15 means that bytes follow, up to the first that is not 255.
func length(n int, in []byte) (int, []byte, error) {
	if n < 15 {
		return n, in, nil
	}
	for i, b := range in {
		n += int(b)
		if b != 255 {
			return n, in[i+1:], nil
		}
	}
	return 0, nil, errShort
}
