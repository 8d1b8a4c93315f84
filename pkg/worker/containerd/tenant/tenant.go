// Package tenant tells for whom containerd works: the namespace of the Pod that a call is about. pkg/worker/cri writes it beside the
// call, and what the child has one of for all (downloads, memory for conversions) is shared by it.
package tenant

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/nodeless/nodeless/pkg/api"
)

// Of is the namespace of the Pod, or "" when the call is about none: the host's own work, such as an import, is one more tenant.
func Of(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if said := md.Get(api.PodNamespaceHeader); len(said) == 1 {
		return said[0]
	}
	return ""
}
