package controllermanager

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	"k8s.io/kubernetes/pkg/volume/csi"

	"github.com/nodeless/nodeless/pkg/run"
)

// volumePatience is how long VolumePlugins waits: an operator may have turned the attach-detach controller off.
const volumePatience = 10 * time.Second

// VolumePlugins is a component that does nothing and is ready when the attach-detach controller has set up the volume plugins. A kubelet in
// the same process starts after it. The CSI plugin keeps who it works for in a variable of its package, and the last one that sets it up
// wins. When that is the controller, which is no node, the kubelet asks for a node without a name. It stays NotReady, and ends the
// process after two minutes.
type VolumePlugins struct{ log *slog.Logger }

var (
	_ run.Component = (*VolumePlugins)(nil)
	_ run.Readier   = (*VolumePlugins)(nil)
)

// NewVolumePlugins gives the component.
func NewVolumePlugins(log *slog.Logger) *VolumePlugins { return &VolumePlugins{log: log} }

// Name is "volume-plugins".
func (v *VolumePlugins) Name() string { return "volume-plugins" }

// Run waits for the end.
func (v *VolumePlugins) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready waits until the CSI plugin knows its first user, but not for ever.
func (v *VolumePlugins) Ready(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	patience := time.NewTimer(volumePatience)
	defer patience.Stop()
	for !csiInUse() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			v.log.Warn("attach-detach controller has not set up the volume plugins", "waited", volumePatience)
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
