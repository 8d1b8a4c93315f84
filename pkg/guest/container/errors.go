package container

import "errors"

// Kinds of errors the agent tells apart.
var (
	ErrNotFound   = errors.New("not found")
	ErrExists     = errors.New("already exists")
	ErrNotRunning = errors.New("not running")
	ErrNoTerminal = errors.New("process has no terminal")
	ErrName       = errors.New("not a name for a container")
	ErrPause      = errors.New("the pause container runs no process")
)
