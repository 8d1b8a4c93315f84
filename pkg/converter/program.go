package converter

import (
	"bufio"
	"bytes"
	"context"
	_ "crypto/sha256" // go-digest finds it by registration
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	image "github.com/nodeless/nodeless/pkg/erofs"
)

// The arguments of the process: what to do, how much memory it may map, and of a merge the number of layers.
const (
	convertMode = "convert"
	mergeMode   = "merge"
)

// maxTail is how much may follow a tar's end mark. Tools fill up the last record with zeros, 10 KiB as a rule.
const maxTail = 64 << 20

// maxWindow is how far back a zstd layer may refer: as far as zstd itself lets it without being told to.
const maxWindow = 128 << 20

// maxCPUs is how many CPUs one process uses.
const maxCPUs = 4

// Main is the process. It returns its exit code; what is wrong with a layer is an answer and no fault of the process.
func Main(args []string) int {
	if err := serve(args); err != nil {
		fmt.Fprintln(os.Stderr, "nodeless-converter:", err)
		return 1
	}
	return 0
}

func serve(args []string) error {
	mode, memory, layers, err := parse(args)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxCPUs))
	debug.SetMemoryLimit(smallAim)
	if err := confine(memory, uint64(layersFD+layers)); err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	s := &session{answers: json.NewEncoder(os.NewFile(answerFD, "answers")), grants: os.NewFile(grantFD, "grants")}
	if err := s.wait(); err != nil {
		return err
	}
	limits := image.DefaultLimits()
	limits.Grow = s.grow
	out := os.NewFile(outputFD, "image")
	if mode == mergeMode {
		return s.answers.Encode(merge(layers, out, limits))
	}
	return s.answers.Encode(convert(os.NewFile(inputFD, "layer"), out, limits))
}

func parse(args []string) (mode string, memory uint64, layers int, err error) {
	if len(args) != 3 || args[0] != convertMode && args[0] != mergeMode {
		return "", 0, 0, errors.New("it is started by containerd, to convert a layer")
	}
	memory, err = strconv.ParseUint(args[1], 10, 63)
	if err == nil {
		layers, err = strconv.Atoi(args[2])
	}
	if err == nil && layers < 0 {
		err = fmt.Errorf("%d layers", layers)
	}
	return args[0], memory, layers, err
}

// session is the talk with the parent.
type session struct {
	answers *json.Encoder
	grants  *os.File
}

// wait waits for the parent's word.
func (s *session) wait() error {
	if _, err := io.ReadFull(s.grants, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the parent: %w", err)
	}
	return nil
}

func (s *session) grow() error {
	if err := s.answers.Encode(answer{Grow: true}); err != nil {
		return err
	}
	if err := s.wait(); err != nil {
		return err
	}
	debug.SetMemoryLimit(largeAim)
	return nil
}

func merge(n int, out *os.File, limits image.Limits) answer {
	var layers []*os.File
	for i := range n {
		layers = append(layers, os.NewFile(uintptr(layersFD+i), fmt.Sprint(i+1)))
	}
	if err := image.Merge(context.Background(), layers, out, limits); err != nil {
		return failed(err)
	}
	return answer{}
}

// convert writes the image of a layer and describes its tar. All of the stream is read, what follows the tar's end too, for the digest is
// over all of it.
func convert(layer io.Reader, out *os.File, limits image.Limits) answer {
	plain, err := decompress(layer)
	if err != nil {
		return failed(fmt.Errorf("decompress: %w", err))
	}
	sum := digest.Canonical.Digester()
	counted := &counter{r: io.TeeReader(plain, sum.Hash())}
	if err := image.Convert(context.Background(), counted, out, limits); err != nil {
		return failed(err)
	}
	tail, err := io.CopyN(io.Discard, counted, maxTail+1)
	if tail > maxTail {
		err = fmt.Errorf("more than %d bytes behind the end of the tar: %w", maxTail, image.ErrTooLarge)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return failed(err)
	}
	return answer{Digest: sum.Digest().String(), Size: counted.n}
}

// decompress looks at how a layer begins, as registries and tools do not always say the truth of it.
func decompress(layer io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(layer, 256<<10)
	begin, err := in.Peek(4)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case bytes.HasPrefix(begin, []byte{0x1f, 0x8b, 0x08}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(begin) == 4 && begin[0]&0xf0 == 0x50 && bytes.Equal(begin[1:], []byte{0x2a, 0x4d, 0x18}):
		return zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(maxCPUs))
	}
	return in, nil
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
