package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/mount-utils"
	"k8s.io/utils/keymutex"

	"github.com/nodeless/nodeless/tests/attack"
)

// mounted is a volume that is mounted already.
type mounted struct {
	volume.Mounter
	dir      string
	readOnly bool
	told     *volume.MounterArgs // what SetUp was told
	mount    func()              // what SetUp does
}

func (m *mounted) GetPath() string                  { return m.dir }
func (m *mounted) GetAttributes() volume.Attributes { return volume.Attributes{ReadOnly: m.readOnly} }
func (m *mounted) SetUp(args volume.MounterArgs) error {
	if m.told = &args; m.mount != nil {
		m.mount()
	}
	return nil
}
func (m *mounted) SetUpAt(_ string, args volume.MounterArgs) error { return m.SetUp(args) }

// ours is our way to give a volume to a group.
func ours(ctx context.Context, dir string, group int64, policy *v1.PodFSGroupChangePolicy, readOnly bool) *ownership {
	return &ownership{ctx: ctx, log: slog.New(slog.DiscardHandler), dir: dir, group: group, policy: policy, readOnly: readOnly}
}

// tree makes a volume with all kinds of files and modes, and a folder beside it to which a link leads.
func tree(t *testing.T) (dir, outside string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: files are given to other groups by root only")
	}
	dir, outside = filepath.Join(t.TempDir(), "volume"), filepath.Join(t.TempDir(), "outside")
	var errs []error
	for _, d := range []string{dir, outside, dir + "/a", dir + "/a/b", dir + "/closed", dir + "/sticky"} {
		errs = append(errs, os.Mkdir(d, 0o700))
	}
	for i, mode := range []os.FileMode{0, 0o400, 0o644, 0o755, os.ModeSetuid | 0o755, os.ModeSetgid | 0o710, os.ModeSetgid | os.ModeSetuid} {
		for _, d := range []string{dir, dir + "/a/b", dir + "/closed", outside} {
			name := filepath.Join(d, fmt.Sprint(i))
			errs = append(errs, os.WriteFile(name, nil, 0o600), os.Chmod(name, mode))
		}
	}
	errs = append(errs, os.Chmod(dir+"/closed", 0), os.Chmod(dir+"/sticky", os.ModeSticky|0o777), unix.Mkfifo(dir+"/a/fifo", 0o600),
		os.Symlink(outside, dir+"/a/out"), os.Symlink(outside+"/3", dir+"/a/file"), os.Symlink("nowhere", dir+"/dangling"))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return dir, outside
}

// owners are the modes and owners of all that is in a folder, by its name there.
func owners(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		all[name] = fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOwnershipIsUpstreams: a volume that nobody changes gets what upstream gives it.
func TestOwnershipIsUpstreams(t *testing.T) {
	once, always := v1.FSGroupChangeOnRootMismatch, v1.FSGroupChangeAlways
	ready := func(t *testing.T, dir string) {
		if err := errors.Join(os.Chown(dir, -1, 4321), os.Chmod(dir, os.ModeSetgid|0o770)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		policy   *v1.PodFSGroupChangePolicy
		readOnly bool
		prepare  func(t *testing.T, dir string)
	}{
		"no policy":               {},
		"read-only":               {readOnly: true},
		"always":                  {policy: &always, prepare: ready},
		"once, root of another":   {policy: &once},
		"once, root fits":         {policy: &once, prepare: ready},
		"once, root lacks setgid": {policy: &once, prepare: func(t *testing.T, dir string) { ready(t, dir); _ = os.Chmod(dir, 0o770) }},
		"once, read-only fits":    {policy: &once, readOnly: true, prepare: func(t *testing.T, dir string) { ready(t, dir); _ = os.Chmod(dir, os.ModeSetgid|0o550) }},
	} {
		t.Run(name, func(t *testing.T) {
			group := int64(4321)
			var got [2]map[string]string
			for i := range got {
				dir, outside := tree(t)
				if tc.prepare != nil {
					tc.prepare(t, dir)
				}
				before := owners(t, outside)
				change := []volume.VolumeOwnershipChanger{
					volume.NewVolumeOwnership(&mounted{readOnly: tc.readOnly}, dir, &group, tc.policy, nil), ours(t.Context(), dir, group, tc.policy, tc.readOnly),
				}[i]
				if err := change.ChangePermissions(); err != nil {
					t.Fatal(err)
				}
				got[i] = owners(t, dir)
				if diff := cmp.Diff(before, owners(t, outside)); diff != "" && i == 1 {
					t.Errorf("outside (-before +after):\n%s", diff)
				}
			}
			if diff := cmp.Diff(got[0], got[1]); diff != "" {
				t.Errorf("modes and owners (-upstream +here):\n%s", diff)
			}
		})
	}
}

// TestAttackAVolumeThatIsGivenAway: a guest changes a volume while the host gives it to the group of a second Pod.
func TestAttackAVolumeThatIsGivenAway(t *testing.T) {
	attack.Try(t, "T4", "a folder that becomes a link to the host while it is given away", func(t *testing.T) attack.Outcome {
		dir, outside := tree(t)
		for _, in := range []string{dir + "/a", outside} { // by the same names
			for i := range 200 {
				if err := os.WriteFile(filepath.Join(in, fmt.Sprintf("f%d", i)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Symlink(outside, dir+"/link"); err != nil {
			t.Fatal(err)
		}
		before := owners(t, outside)
		stop, swapped := make(chan struct{}), 0
		var attacker sync.WaitGroup
		attacker.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/link", unix.RENAME_EXCHANGE) == nil {
						swapped++
					}
				}
			}
		})
		for range 100 {
			if err := ours(t.Context(), dir, 4321, nil, false).ChangePermissions(); err != nil {
				t.Errorf("the volume is not given: %v", err)
			}
		}
		close(stop)
		attacker.Wait()
		if t.Logf("swapped %d times", swapped); swapped == 0 {
			t.Error("nothing was tried")
		}
		if diff := cmp.Diff(before, owners(t, outside)); diff != "" {
			t.Errorf("outside (-before +after):\n%s", diff)
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "folders without end below each other", func(t *testing.T) attack.Outcome {
		dir, _ := tree(t)
		unix.Close(tall(t, dir, deepest+10))
		if err := ours(t.Context(), dir, 4321, nil, false).ChangePermissions(); err == nil {
			t.Error("it went to the end")
		}
		return attack.Refused
	})
	attack.Try(t, "T4", "the work does not end when the server does", func(t *testing.T) attack.Outcome {
		dir, _ := tree(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := ours(ctx, dir, 4321, nil, false).ChangePermissions(); !errors.Is(err, context.Canceled) {
			t.Errorf("ChangePermissions = %v", err)
		}
		return attack.Contained
	})
}

// TestUpstreamGivesNoVolumeAway in which somebody may write: it is told of no group, or of our way.
func TestUpstreamGivesNoVolumeAway(t *testing.T) {
	group := int64(4321)
	given := givers{t.Context(), slog.New(slog.DiscardHandler)}
	t.Run("csi", func(t *testing.T) {
		m := &mounted{dir: t.TempDir()}
		v := &csiVolume{Mounter: m, plugin: csiVolumes{probed[csiPlugin](t), given}, spec: &volume.Spec{}}
		if err := v.SetUp(volume.MounterArgs{FsGroup: &group}); err != nil {
			t.Fatal(err)
		}
		if o, ok := m.told.VolumeOwnershipApplicator.(*ownership); !ok || o.dir != m.dir || o.group != group || m.told.FsGroup != &group {
			t.Errorf("told %+v", m.told)
		}
		if err := v.SetUp(volume.MounterArgs{}); err != nil || m.told.VolumeOwnershipApplicator != nil {
			t.Errorf("without a group: told %+v, %v", m.told, err)
		}
	})
	t.Run("huge pages", func(t *testing.T) {
		dir, _ := tree(t)
		m := &mounted{dir: dir}
		v := &emptyDir{Mounter: m, plugin: emptyDirs{probed[volume.ResizableEphemeralVolumePlugin](t), given}, spec: &volume.Spec{}, huge: true}
		if err := v.SetUp(volume.MounterArgs{FsGroup: &group}); err != nil {
			t.Fatal(err)
		}
		if got := owners(t, dir)["."]; m.told.FsGroup != nil || got != "42770 0:4321" {
			t.Errorf("told %+v; it is %s", m.told, got)
		}
	})
}

// here is the host of volumes.
type here struct {
	volume.VolumeHost
	pods    string
	mounter mount.Interface
}

func (h here) GetPodsDir() string          { return h.pods }
func (h here) GetMounter() mount.Interface { return h.mounter }

// TestLocalVolumeIsGivenToItsFirstPod alone, and is not left mounted as if it had been.
func TestLocalVolumeIsGivenToItsFirstPod(t *testing.T) {
	group, log := int64(4321), slog.New(slog.DiscardHandler)
	mounts := mount.NewFakeMounter(nil)
	dir, _ := tree(t)
	pods := filepath.Dir(filepath.Dir(dir))
	plugin := &localVolumes{localPlugin: probed[localPlugin](t), givers: givers{t.Context(), log}, paths: keymutex.NewHashed(0), host: here{pods: pods, mounter: mounts}}
	spec := &volume.Spec{PersistentVolume: &v1.PersistentVolume{Spec: v1.PersistentVolumeSpec{
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: "/data"}},
	}}}
	// setUp is a Pod that has the volume, and tells what upstream was told and whose the volume is.
	setUp := func(dir string) (*volume.MounterArgs, string, error) {
		m := &mounted{dir: dir, mount: func() {
			if err := mounts.Mount("/data", dir, "", []string{"bind"}); err != nil {
				t.Fatal(err)
			}
		}}
		err := (&localVolume{m, plugin, spec, nil}).SetUp(volume.MounterArgs{FsGroup: &group})
		return m.told, owners(t, dir)["a"], err
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	plugin.ctx = cancelled
	if _, _, err := setUp(dir); !errors.Is(err, context.Canceled) || len(mounts.MountPoints) > 0 {
		t.Fatalf("given up: %v; mounted are %v", err, mounts.MountPoints)
	}
	plugin.ctx = t.Context()
	if told, owner, err := setUp(dir); err != nil || told == nil || told.FsGroup != nil || owner != "42770 0:4321" {
		t.Errorf("first Pod: upstream is told %+v, it is %s, %v", told, owner, err)
	}
	if told, _, err := setUp(dir); err != nil || told != nil {
		t.Errorf("mounted already: upstream is told %+v, %v", told, err)
	}
	second, _ := tree(t)
	if told, owner, err := setUp(second); err != nil || told == nil || told.FsGroup != nil || owner != "40700 0:0" {
		t.Errorf("second Pod: upstream is told %+v, it is %s, %v", told, owner, err)
	}
}

// probed is the plugin that has those abilities.
func probed[T any](t *testing.T) T {
	t.Helper()
	for _, p := range volumePlugins(t.Context(), slog.New(slog.DiscardHandler)) {
		if whole, ok := p.(T); ok {
			return whole
		}
	}
	t.Fatal("there is no such plugin")
	panic("not reached")
}
