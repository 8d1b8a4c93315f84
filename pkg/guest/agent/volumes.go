package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

// placeVolumes makes the volumes of a container available and its mounts plain bind mounts of them.
func (a *Agent) placeVolumes(ctx context.Context, id string, mounts []specs.Mount) error {
	for i := range mounts {
		for _, s := range volumeStorages(&mounts[i], filepath.Join(contract.GuestRoot, filepath.Base(id), "volumes", strconv.Itoa(i))) {
			if _, err := a.mount(ctx, id, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// volumeStorages turns a mount of a volume into a bind mount and returns what has to be mounted for it, in order. A part of a
// volume is mounted at point on the way.
func volumeStorages(m *specs.Mount, point string) []mount.Storage {
	var out []mount.Storage
	sub, tmpfs := "", ""
	kind := m.Type
	switch kind {
	case contract.MountShare, contract.MountMemory, contract.MountWatch:
		m.Options, sub = cutOption(m.Options, contract.OptionSub)
		m.Options, tmpfs = cutOption(m.Options, contract.OptionTmpfs)
	default:
		return nil
	}
	switch kind {
	case contract.MountMemory:
		out = append(out, mount.Storage{Driver: mount.DriverMemory, Source: "tmpfs", FSType: "tmpfs", MountPoint: m.Source, Options: []string{tmpfs}})
	case contract.MountWatch:
		copied := filepath.Join(contract.GuestRoot, "sandbox", "watched", filepath.Base(m.Source))
		out = append(out, mount.Storage{Driver: mount.DriverWatch, Source: m.Source, MountPoint: copied})
		m.Source = copied
	}
	if sub != "" {
		part := mount.Storage{Driver: mount.DriverPart, Source: m.Source, MountPoint: point, DriverOptions: []string{sub}}
		if kind == contract.MountMemory {
			part.Options = []string{mount.OptionCreate} // the kubelet has made it in a tmpfs of the host
		}
		out = append(out, part)
		m.Source = point
	}
	m.Type = "bind"
	m.Options = append(m.Options, "rbind")
	m.Destination = filepath.Clean(m.Destination)
	return out
}

// cutOption removes the option with a prefix and returns what follows it.
func cutOption(options []string, prefix string) (rest []string, value string) {
	i := slices.IndexFunc(options, func(o string) bool { return strings.HasPrefix(o, prefix) })
	if i < 0 {
		return options, ""
	}
	return slices.Delete(slices.Clone(options), i, i+1), strings.TrimPrefix(options[i], prefix)
}
