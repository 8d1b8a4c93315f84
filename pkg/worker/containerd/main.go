package containerd

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/worker/containerd/erofs"
	"github.com/nodeless/nodeless/pkg/worker/containerd/pull"
)

// Main is containerd: it takes containerd's own arguments (without the program's name) and blocks until it is told
// to stop by a signal. It is what the child process runs.
func Main(ctx context.Context, args []string) error {
	erofs.Register()
	pull.Register()
	return command.App().Run(ctx, append([]string{"containerd"}, args...))
}

// CtrMain is ctr with the local containerd, Kubernetes' namespace and our snapshotter as its defaults; flags and
// the environment win over them.
func CtrMain(ctx context.Context, socket string, args []string) error {
	for name, value := range map[string]string{"CONTAINERD_ADDRESS": socket, "CONTAINERD_NAMESPACE": contract.CRINamespace, "CONTAINERD_SNAPSHOTTER": snapshotter} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return ctr.New().Run(ctx, append([]string{"ctr"}, args...))
}
