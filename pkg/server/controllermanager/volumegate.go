package controllermanager

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	"k8s.io/kubernetes/pkg/volume/csi"

	"github.com/nodeless/nodeless/pkg/run"
)

// volumePatience is how long VolumeGate waits: an operator may have turned the attach-detach controller off.
const volumePatience = 10 * time.Second

// VolumeGate is a component that does nothing and is ready when the attach-detach controller has set up the volume plugins. A kubelet in
// the same process starts after it. The CSI plugin keeps who it works for in a variable of its package, and the last one that sets it up
// wins. When that is the controller, which is no node, the kubelet asks for a node without a name. It stays NotReady, and ends the
// process after two minutes.
type VolumeGate struct{ log *slog.Logger }

var (
	_ run.Component = (*VolumeGate)(nil)
	_ run.Readier   = (*VolumeGate)(nil)
)

// NewVolumeGate gives the component.
func NewVolumeGate(log *slog.Logger) *VolumeGate { return &VolumeGate{log: log} }

// Name is "volume-plugins".
func (g *VolumeGate) Name() string { return "volume-plugins" }

// Run waits for the end.
func (g *VolumeGate) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready waits until the CSI plugin knows its first user, but not for ever.
func (g *VolumeGate) Ready(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	patience := time.NewTimer(volumePatience)
	defer patience.Stop()
	for !csiInUse() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			g.log.Warn("attach-detach controller has not set up the volume plugins", "waited", volumePatience)
			return nil
		case <-ticker.C:
		}
	}
	return nil
}

// csiInUse tells whether somebody has set up the CSI plugin in this process.
func csiInUse() bool {
	return !reflect.ValueOf(csi.PluginHandler).Elem().FieldByName("csiPlugin").IsNil()
}
