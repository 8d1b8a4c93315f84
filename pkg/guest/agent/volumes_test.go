package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

func TestVolumeStorages(t *testing.T) {
	const shares = "/run/kata-containers/shared/containers/volumes/"
	tests := []struct {
		name string
		in   specs.Mount
		want specs.Mount
		need []mount.Storage
	}{
		{
			name: "what Kata sends stays",
			in:   specs.Mount{Type: "bind", Source: "/s", Destination: "/d", Options: []string{"rbind"}},
			want: specs.Mount{Type: "bind", Source: "/s", Destination: "/d", Options: []string{"rbind"}},
		},
		{
			name: "a shared volume",
			in:   specs.Mount{Type: contract.MountShare, Source: shares + "empty-dir~v", Destination: "/d", Options: []string{"rprivate", "ro"}},
			want: specs.Mount{Type: "bind", Source: shares + "empty-dir~v", Destination: "/d", Options: []string{"rprivate", "ro", "rbind"}},
		},
		{
			name: "a part of a shared volume",
			in:   specs.Mount{Type: contract.MountShare, Source: shares + "local-volume~v", Destination: "/d", Options: []string{"rw", contract.OptionSub + "a, b/c"}},
			want: specs.Mount{Type: "bind", Source: "/point", Destination: "/d", Options: []string{"rw", "rbind"}},
			need: []mount.Storage{{Driver: "part", Source: shares + "local-volume~v", MountPoint: "/point", DriverOptions: []string{"a, b/c"}}},
		},
		{
			name: "a ConfigMap",
			in:   specs.Mount{Type: contract.MountWatch, Source: shares + "configmap~v", Destination: "/d", Options: []string{"ro"}},
			want: specs.Mount{Type: "bind", Source: contract.GuestRoot + "/sandbox/watched/configmap~v", Destination: "/d", Options: []string{"ro", "rbind"}},
			need: []mount.Storage{{Driver: "watch", Source: shares + "configmap~v", MountPoint: contract.GuestRoot + "/sandbox/watched/configmap~v"}},
		},
		{
			name: "a part of a volume in memory, in place of the sandbox's own",
			in: specs.Mount{Type: contract.MountMemory, Source: contract.GuestRoot + "/sandbox/ephemeral/m", Destination: "/dev/shm/",
				Options: []string{contract.OptionSub + "x", contract.OptionTmpfs + "size=1,mode=0777"}},
			want: specs.Mount{Type: "bind", Source: "/point", Destination: "/dev/shm", Options: []string{"rbind"}},
			need: []mount.Storage{
				{Driver: "memory", Source: "tmpfs", FSType: "tmpfs", MountPoint: contract.GuestRoot + "/sandbox/ephemeral/m", Options: []string{"size=1,mode=0777"}},
				{Driver: "part", Source: contract.GuestRoot + "/sandbox/ephemeral/m", MountPoint: "/point", DriverOptions: []string{"x"}, Options: []string{"create"}},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			need := volumeStorages(&tt.in, "/point")
			if diff := cmp.Diff(tt.need, need); diff != "" {
				t.Errorf("storages (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, tt.in); diff != "" {
				t.Errorf("mount (-want +got):\n%s", diff)
			}
		})
	}
}
