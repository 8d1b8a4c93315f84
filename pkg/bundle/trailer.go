package bundle

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// trailerMagic ends a file that carries a bundle. The digit is the version of the format.
const trailerMagic = "nodeless-bundle1"

// trailerSize is the length of an encoded Trailer.
const trailerSize = 3*8 + 32 + hashLen + len(trailerMagic)

// ErrNoPayload means that a file carries no bundle, or not the end of one.
var ErrNoPayload = errors.New("the file carries no bundle: it is incomplete, or not a nodeless release")

// Trailer is the last bytes of a file that carries a bundle. It says where the payload is: one zstd stream of
// bundle.json followed by the data of every file, in the manifest's order.
type Trailer struct {
	Offset       int64 // of the payload in the file
	Length       int64 // of the payload
	ManifestSize int64 // how much of the unpacked stream is bundle.json
	SHA256       [32]byte
	Hash         string // names the bundle
}

// Encode gives the bytes that end the file.
func (t Trailer) Encode() []byte {
	b := make([]byte, 0, trailerSize)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Length))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.ManifestSize))
	b = append(b, t.SHA256[:]...)
	b = append(b, t.Hash...)
	return append(b, trailerMagic...)
}

// ReadTrailer reads the end of a file of the given size.
func ReadTrailer(file io.ReaderAt, size int64) (Trailer, error) {
	if size < int64(trailerSize) {
		return Trailer{}, ErrNoPayload
	}
	b := make([]byte, trailerSize)
	if _, err := file.ReadAt(b, size-int64(trailerSize)); err != nil {
		return Trailer{}, fmt.Errorf("read end of file: %w", err)
	}
	if string(b[trailerSize-len(trailerMagic):]) != trailerMagic {
		return Trailer{}, ErrNoPayload
	}
	t := Trailer{
		Offset:       int64(binary.LittleEndian.Uint64(b)),
		Length:       int64(binary.LittleEndian.Uint64(b[8:])),
		ManifestSize: int64(binary.LittleEndian.Uint64(b[16:])),
		SHA256:       [32]byte(b[24:56]),
		Hash:         string(b[56 : 56+hashLen]),
	}
	_, notHex := hex.DecodeString(t.Hash)
	if t.Offset < 0 || t.Length < 0 || t.ManifestSize < 0 || t.Offset+t.Length != size-int64(trailerSize) || notHex != nil {
		return Trailer{}, ErrNoPayload
	}
	return t, nil
}
