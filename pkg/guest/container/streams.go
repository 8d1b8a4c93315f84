package container

import (
	"context"
	"fmt"
)

// Read returns output of a process, waiting for some; io.EOF at its end.
func (m *Manager) Read(ctx context.Context, id, execID string, stderr bool, size int) ([]byte, error) {
	p, err := m.process(id, execID)
	if err != nil {
		return nil, err
	}
	if stderr {
		return p.io.stderr.read(ctx, size)
	}
	if p.lp == nil {
		_, err := p.await(ctx) // the pause container says nothing until it ends
		if err != nil {
			return nil, err
		}
	}
	return p.io.stdout.read(ctx, size)
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
