package converter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	image "github.com/nodeless/nodeless/pkg/erofs"
	"github.com/nodeless/nodeless/pkg/memcg"
)

// Runner starts the processes.
type Runner struct {
	Program string // nodeless-converter, or what calls Main
	Cgroup  string // absolute name of the cgroup that has one for each process below it; empty: none
	Bound   int64  // of that cgroup, in bytes
	Memory  int64  // what one process may map to be written; 0: what a conversion at all its limits needs
}

// Prepare makes the cgroup, and removes what an earlier run has left in it.
func (r *Runner) Prepare() error {
	if r.Cgroup == "" {
		return nil
	}
	g, err := memcg.Make("/proc/self/mountinfo", r.Cgroup, r.Bound)
	if err != nil {
		return err
	}
	return g.Sweep()
}

// Result describes the tar of a layer.
type Result struct {
	Digest digest.Digest
	Size   int64
}

// Convert writes the image of a layer, compressed or not, to out, which must be empty. Of the limits only Grow is the caller's.
func (r *Runner) Convert(ctx context.Context, layer io.Reader, out *os.File, limits image.Limits) (Result, error) {
	a, err := r.run(ctx, convertMode, layer, []*os.File{out}, limits.Grow)
	if err != nil {
		return Result{}, err
	}
	sum, err := digest.Parse(a.Digest)
	if err != nil {
		return Result{}, fmt.Errorf("read answer of the process: %w", err)
	}
	return Result{Digest: sum, Size: a.Size}, nil
}

// Merge writes the image of the layers, lowest first, to out, which must be empty. Of the limits only Grow is the caller's.
func (r *Runner) Merge(ctx context.Context, layers []*os.File, out *os.File, limits image.Limits) error {
	_, err := r.run(ctx, mergeMode, nil, append([]*os.File{out}, layers...), limits.Grow)
	return err
}

// process is one that runs.
type process struct {
	cmd     *exec.Cmd
	group   *memcg.Group // nil: none
	answers *os.File
	grants  *os.File
	input   *os.File
	said    bytes.Buffer // what it wrote to its errors
}

// run runs one process to its answer. files are the image and the layers.
func (r *Runner) run(ctx context.Context, mode string, input io.Reader, files []*os.File, grow func() error) (answer, error) {
	runtime.LockOSThread() // the process dies with the thread that has started it
	defer runtime.UnlockOSThread()
	p, err := r.start(ctx, mode, files)
	if err != nil {
		return answer{}, fmt.Errorf("start %s: %w", r.Program, err)
	}
	fed := make(chan error, 1) // holds the error, if any, before the process sees the end of its input
	go func() {
		defer p.input.Close()
		if input == nil {
			return
		}
		if _, err := io.Copy(p.input, input); err != nil && !errors.Is(err, unix.EPIPE) {
			fed <- err
		}
	}()
	last, err := p.listen(grow)
	if err != nil {
		_ = p.cmd.Process.Kill() // it waits for what does not come
	}
	waited := p.cmd.Wait()
	closed := errors.Join(p.answers.Close(), p.grants.Close())
	starved := p.group != nil && p.group.Ended()
	if p.group != nil {
		closed = errors.Join(closed, p.group.Remove())
	}
	if why := context.Cause(ctx); why != nil {
		return answer{}, why
	}
	select {
	case wrong := <-fed:
		return answer{}, wrong
	default:
	}
	if err != nil {
		return answer{}, err
	}
	if waited != nil || last == nil {
		return answer{}, p.ended(waited, starved)
	}
	return *last, errors.Join(last.err(), closed)
}

// ignore gives the error, unless it is of the kind.
func ignore(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}

// start starts a process that has its files and its bound, and has been told to begin.
func (r *Runner) start(ctx context.Context, mode string, files []*os.File) (_ *process, err error) {
	pipes, err := newPipes()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pipes.closeChild()) }()
	memory := r.Memory
	if memory == 0 {
		memory = largeBound
	}
	p := &process{input: pipes.in[1], answers: pipes.answers[0], grants: pipes.grants[1]}
	p.cmd = exec.CommandContext(ctx, r.Program, mode, strconv.FormatInt(memory, 10), strconv.Itoa(len(files)-1))
	p.cmd.Env, p.cmd.Dir = []string{"GOTRACEBACK=none"}, "/"
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = pipes.in[0], pipes.answers[1], &tail{buf: &p.said}
	p.cmd.ExtraFiles = append([]*os.File{files[0], pipes.grants[0]}, files[1:]...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		p.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, pipes.closeParent())
	}
	if err := r.begin(p); err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if p.group != nil {
			err = errors.Join(err, p.group.Remove())
		}
		return nil, errors.Join(err, pipes.closeParent())
	}
	return p, nil
}

// begin bounds a process and has it begin.
func (r *Runner) begin(p *process) error {
	if r.Cgroup != "" {
		g, err := memcg.Make("/proc/self/mountinfo", path.Join(r.Cgroup, strconv.Itoa(p.cmd.Process.Pid)), smallBound)
		if err != nil {
			return err
		}
		p.group = &g
		if err := g.Join(p.cmd.Process.Pid); err != nil {
			return err
		}
	}
	_, err := p.grants.Write([]byte{1})
	return ignore(err, unix.EPIPE) // it has ended, which is told below
}

// listen reads answers to the last, and lets the process grow when it asks.
func (p *process) listen(grow func() error) (last *answer, err error) {
	answers := json.NewDecoder(io.LimitReader(p.answers, maxAnswers))
	for {
		var a answer
		if err := answers.Decode(&a); err != nil {
			return last, nil // what it has said, if anything, is all
		}
		if !a.Grow {
			return &a, nil
		}
		if grow != nil {
			if err := grow(); err != nil {
				return nil, err
			}
		}
		if p.group != nil {
			if err := p.group.Bound(largeBound); err != nil {
				return nil, err
			}
		}
		if _, err := p.grants.Write([]byte{1}); err != nil {
			return nil, ignore(err, unix.EPIPE)
		}
	}
}

// ended says why there is no answer.
func (p *process) ended(why error, starved bool) error {
	if why == nil {
		why = errors.New("without an answer")
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(p.said.Bytes()), []byte("\n"))
	switch {
	case starved:
		return fmt.Errorf("%w: %w: it needed more memory than a conversion may have", ErrEnded, why)
	case len(line) > 0:
		return fmt.Errorf("%w: %w: %s", ErrEnded, why, line)
	}
	return fmt.Errorf("%w: %w", ErrEnded, why)
}

// tail keeps the first of what is written to it.
type tail struct{ buf *bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	const most = 1 << 10
	if room := most - t.buf.Len(); room > 0 {
		t.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// pipes are those between a process and its parent; of each the first end is read.
type pipes struct{ in, answers, grants [2]*os.File }

func newPipes() (p pipes, err error) {
	for _, pair := range []*[2]*os.File{&p.in, &p.answers, &p.grants} {
		if pair[0], pair[1], err = os.Pipe(); err != nil {
			return pipes{}, errors.Join(err, p.closeChild(), p.closeParent())
		}
	}
	return p, nil
}

func (p pipes) closeChild() error  { return closeAll(p.in[0], p.answers[1], p.grants[0]) }
func (p pipes) closeParent() error { return closeAll(p.in[1], p.answers[0], p.grants[1]) }

func closeAll(files ...*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
