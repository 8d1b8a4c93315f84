// Package unixsocket opens the sockets on which parts of nodeless on one host speak to each other. The datastore and the
// runtime service of the kubelet listen on theirs through it.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Listen replaces a socket that an earlier process left at path and lets nobody but the owner connect. The caller knows
// that the earlier process is gone.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, &hint.Error{Op: "listen on", On: path, Err: err, Do: "choose another folder for sockets with --run-dir"}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close socket to other users: %w", err), listener.Close())
	}
	return listener, nil
}
