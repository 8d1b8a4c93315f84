package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func TestUnpackBlock(t *testing.T) {
	tests := []struct {
		name  string
		block []byte
		want  string
	}{
		{name: "literals only", block: []byte("\x50hello"), want: "hello"},
		{name: "match", block: []byte("\x30abc\x03\x00\x10!"), want: "abcabca!"},
		{name: "match that overlaps itself", block: []byte("\x14a\x01\x00\x10!"), want: "aaaaaaaaa!"},
		{name: "long literals", block: append([]byte("\xf0\x05"), strings.Repeat("x", 20)...), want: strings.Repeat("x", 20)},
		{name: "long match", block: []byte("\x1fa\x01\x00\x05\x10!"), want: strings.Repeat("a", 25) + "!"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := unpackBlock(nil, tt.block)
			if err != nil || string(got) != tt.want {
				t.Errorf("unpackBlock = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestDamagedBlockIsRefused(t *testing.T) {
	for name, block := range map[string]string{
		"literals missing":              "\x50hel",
		"distance missing":              "\x30abc\x03",
		"distance before the start":     "\x30abc\x04\x00\x10!",
		"distance of nothing":           "\x30abc\x00\x00\x10!",
		"length that does not end":      "\xf0\xff\xff",
		"match length that has no end":  "\x1fa\x01\x00\xff",
		"literal length without a byte": "\xf0",
	} {
		if got, err := unpackBlock(nil, []byte(block)); err == nil {
			t.Errorf("%s: gave %q", name, got)
		}
	}
}

func TestNoKernelIsRefused(t *testing.T) {
	image := make([]byte, 4096)
	copy(image[offMagic:], "HdrS")
	image[offSetupSects] = 1
	gzip := bytes.Clone(image)
	binary.LittleEndian.PutUint32(gzip[offPayloadLength:], 100)
	beyond := bytes.Clone(image)
	binary.LittleEndian.PutUint32(beyond[offPayloadLength:], 1<<20)
	for name, in := range map[string][]byte{
		"empty":                      nil,
		"text":                       bytes.Repeat([]byte("x"), 4096),
		"payload of another kind":    gzip,
		"payload longer than a file": beyond,
	} {
		if _, err := extract(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
