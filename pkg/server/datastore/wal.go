package datastore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Layout of SQLite's write-ahead log, see "WAL-mode file format" in its documentation.
const (
	walMagic       = 0x377f0682 // the last bit says in which byte order checksums are made
	walHeaderSize  = 32
	walFrameHeader = 24
)

// walReport is what a write-ahead log holds. SQLite reads it up to the first frame that is not sound and forgets the rest
// without a word; this tells whether there was a rest.
type walReport struct {
	Sound     int  // frames that SQLite will read
	Lost      int  // frames of the same log from the first unsound one on; the last one a dying process wrote may be one
	BadHeader bool // then SQLite reads nothing
}

// whole tells whether nothing is missing.
func (r walReport) whole() bool { return r.Lost == 0 && !r.BadHeader }

// severe tells whether more is missing than the one page that a dying process may have left half written.
func (r walReport) severe() bool { return r.BadHeader || r.Lost > 1 }

func (r walReport) String() string {
	if r.BadHeader {
		return fmt.Sprintf("the header of its write-ahead log is damaged: all that was not yet copied from it, at most %d pages, is lost", r.Lost)
	}
	return fmt.Sprintf("its write-ahead log is damaged or torn after %d pages: what the last %d pages said is lost", r.Sound, r.Lost)
}

// scanWAL reads the log at path. A missing or empty one is sound.
func scanWAL(path string) (walReport, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return walReport{}, nil
	}
	if err != nil {
		return walReport{}, fmt.Errorf("read write-ahead log: %w", err)
	}
	return parseWAL(data), nil
}

func parseWAL(data []byte) walReport {
	if len(data) == 0 {
		return walReport{}
	}
	if len(data) < walHeaderSize {
		return walReport{BadHeader: true}
	}
	header, frames := data[:walHeaderSize], data[walHeaderSize:]
	var order binary.ByteOrder = binary.LittleEndian
	magic := binary.BigEndian.Uint32(header)
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	pageSize := int(binary.BigEndian.Uint32(header[8:]))
	sum := walSum{}.add(order, header[:24])
	if magic&^1 != walMagic || pageSize < 512 || pageSize > 65536 || !sum.equals(header[24:]) {
		return walReport{BadHeader: true, Lost: len(frames) / (walFrameHeader + 4096)}
	}
	var r walReport
	size := walFrameHeader + pageSize
	salts := header[16:24]
	sound := true
	for ; len(frames) > 0; frames = frames[min(size, len(frames)):] {
		if len(frames) < 16 || !bytes.Equal(frames[8:16], salts) {
			sound = false // a frame of an earlier log, which is the usual end, unless one of this log follows
			continue
		}
		if sound && len(frames) >= size {
			sum = sum.add(order, frames[:8]).add(order, frames[walFrameHeader:size])
			if sum.equals(frames[16:24]) {
				r.Sound++
				continue
			}
		}
		sound = false
		r.Lost++
	}
	return r
}

// walSum is the checksum of a log, which runs on from frame to frame.
type walSum struct{ a, b uint32 }

func (s walSum) add(order binary.ByteOrder, data []byte) walSum {
	for ; len(data) >= 8; data = data[8:] {
		s.a += order.Uint32(data) + s.b
		s.b += order.Uint32(data[4:]) + s.a
	}
	return s
}

func (s walSum) equals(stored []byte) bool {
	return s.a == binary.BigEndian.Uint32(stored) && s.b == binary.BigEndian.Uint32(stored[4:])
}
