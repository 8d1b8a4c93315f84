package converter

import (
	"errors"

	image "github.com/nodeless/nodeless/pkg/erofs"
)

// The files of the process, besides the layers of a merge, which follow.
const (
	inputFD  = 0 // the layer as it came
	answerFD = 1 // one answer in JSON on each line
	outputFD = 3 // the image
	grantFD  = 4 // a byte to begin, and one for each wish to grow
	layersFD = 5
)

// What one process may have of memory, before and after it was let grow: what Go aims at, and where the kernel ends it, with what it has
// just written. docs/SPECIFICATION.md has what conversions need.
const (
	smallAim, smallBound = 192 << 20, 384 << 20
	largeAim, largeBound = 640 << 20, 1 << 30
)

// Need is what a conversion at all its limits takes.
const Need = largeAim

// answer is what the process says.
type answer struct {
	Grow   bool   `json:"grow,omitempty"` // more memory is needed; the process waits
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Error  string `json:"error,omitempty"`
	Kind   string `json:"kind,omitempty"` // of the error
}

// maxAnswers bounds what is read of a process.
const maxAnswers = 64 << 10

// ErrEnded says that a process has ended without an answer.
var ErrEnded = errors.New("the process that converts it has ended")

// kinds are those of errors that callers tell apart.
func kinds() map[string]error {
	return map[string]error{"large": image.ErrTooLarge, "format": image.ErrFormat, "disk": image.ErrDiskFull}
}

// told is an error of the process.
type told struct {
	text string
	kind error
}

func (e *told) Error() string { return e.text }
func (e *told) Unwrap() error { return e.kind }

func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	return &told{text: a.Error, kind: kinds()[a.Kind]}
}

// failed is the answer of an error.
func failed(err error) answer {
	a := answer{Error: err.Error()}
	a.Error = a.Error[:min(len(a.Error), maxAnswers/8)]
	for name, kind := range kinds() {
		if errors.Is(err, kind) {
			a.Kind = name
		}
	}
	return a
}
