package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoPort says that the VM has no agent port.
var ErrNoPort = errors.New("no virtio-serial port")

const (
	// portWait is long: the guest of a busy host gets a CPU now and then only, and it is the host that decides how long it waits.
	portWait  = 2 * time.Minute
	portPause = 2 * time.Millisecond
)

// OpenPort opens the virtio-serial port of that name, waiting for its driver to present it.
func OpenPort(ctx context.Context, name string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, portWait)
	defer cancel()
	for {
		device, err := findPort(os.DirFS("/sys/class/virtio-ports"), name)
		if err == nil {
			return os.OpenFile("/dev/"+device, os.O_RDWR|unix.O_NONBLOCK, 0)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(portPause):
		}
	}
}

// findPort finds the device whose port carries the name.
func findPort(ports fs.FS, name string) (string, error) {
	entries, err := fs.Glob(ports, "*/name")
	if err != nil {
		return "", fmt.Errorf("look for port %q: %w", name, err)
	}
	for _, e := range entries {
		if raw, err := fs.ReadFile(ports, e); err == nil && strings.TrimSpace(string(raw)) == name {
			return path.Dir(e), nil
		}
	}
	return "", fmt.Errorf("%w named %q", ErrNoPort, name)
}
