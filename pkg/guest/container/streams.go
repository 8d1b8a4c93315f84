package container

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Read returns output of a process, waiting for some; io.EOF at its end.
//
// The end is told when the process has ended, not when it has closed its output: Kata takes the one for the other, and
// would end the input of `sh -c "cat > file"`, which has no use for its output.
func (m *Manager) Read(ctx context.Context, id, execID string, stderr bool, size int) ([]byte, error) {
	p, err := m.process(id, execID)
	if err != nil {
		return nil, err
	}
	out := p.io.stdout
	if stderr {
		out = p.io.stderr
	}
	data, err := out.read(ctx, size) // the pause container has none, which reads as its end
	if errors.Is(err, io.EOF) {
		if _, err := p.await(ctx); err != nil {
			return nil, err
		}
	}
	return data, err
}

// Write sends to the standard input of a process.
func (m *Manager) Write(ctx context.Context, id, execID string, data []byte) (int, error) {
	p, err := m.process(id, execID)
	if err != nil {
		return 0, err
	}
	n, err := p.io.write(ctx, data)
	if err != nil && n == 0 {
		return 0, fmt.Errorf("write to process %q of container %s: %w", execID, id, err)
	}
	return n, nil
}

// CloseStdin ends the standard input of a process.
func (m *Manager) CloseStdin(id, execID string) error {
	p, err := m.process(id, execID)
	if err != nil {
		return err
	}
	p.io.closeStdin()
	return nil
}

// Resize sets the size of a process's terminal.
func (m *Manager) Resize(id, execID string, rows, columns uint16) error {
	p, err := m.process(id, execID)
	if err != nil {
		return err
	}
	return p.io.resize(rows, columns)
}
