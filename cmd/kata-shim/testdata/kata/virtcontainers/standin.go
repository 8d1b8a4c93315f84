package virtcontainers

import (
	"context"
	"os"
	"sync"

	"github.com/kata-containers/kata-containers/src/runtime/pkg/device/manager"
	resCtrl "github.com/kata-containers/kata-containers/src/runtime/pkg/resourcecontrol"
	persistapi "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/persist/api"
	"github.com/kata-containers/kata-containers/src/runtime/virtcontainers/types"
)

// StandIn is a running sandbox without a microVM, whose guest agent listens at a socket.
func StandIn(ctx context.Context, id, socket string) (*Sandbox, error) {
	network, err := NewNetwork(&NetworkConfig{})
	if err != nil {
		return nil, err
	}
	config := SandboxConfig{ID: id, StaticResourceMgmt: true, DisableGuestSeccomp: true}
	config.HypervisorConfig.DisableGuestSeLinux = true
	return &Sandbox{
		id: id, ctx: ctx, config: &config, network: network, hypervisor: &mockHypervisor{mockPid: 1 << 30}, store: noStore{}, fsShare: noShare{},
		agent:             &kataAgent{ctx: ctx, keepConn: true, dialTimout: 10, state: KataAgentState{URL: "remote://" + socket}},
		devManager:        manager.NewDeviceManager("", false, "", 0, nil),
		sandboxController: noCgroup{},
		containers:        map[string]*Container{}, annotationsLock: &sync.RWMutex{}, wg: &sync.WaitGroup{},
		state: types.SandboxState{State: types.StateRunning, BlockIndexMap: map[int]struct{}{}},
	}, nil
}

type noStore struct{ persistapi.PersistDriver }

func (noStore) ToDisk(persistapi.SandboxState, map[string]persistapi.ContainerState) error {
	return nil
}

func (noStore) FromDisk(string) (s persistapi.SandboxState, c map[string]persistapi.ContainerState, err error) {
	return s, nil, os.ErrNotExist
}

type noCgroup struct{ resCtrl.ResourceController }

func (noCgroup) UpdateCpuSet(string, string) error { return nil }

type noShare struct{ FilesystemSharer }

func (noShare) ShareRootFilesystem(context.Context, *Container) (*SharedFile, error) {
	return &SharedFile{guestPath: "/rootfs"}, nil
}

func (noShare) UnshareRootFilesystem(context.Context, *Container) error { return nil }
