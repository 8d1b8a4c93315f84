package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract/owners"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == owners.Hold { // as a nodeless-virtiofsd
		owners.Holder(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// ownerOf is who a file belongs to for this process.
func ownerOf(path string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Uid, nil
}

// needMapped skips where temporary files are on a file system that cannot be mapped.
func needMapped(t *testing.T, dir string) {
	t.Helper()
	users, err := owners.For("/proc/self/exe", dir)
	if errors.Is(err, owners.ErrUnknown) {
		t.Skipf("skipped: %v", err)
	}
	_ = users.Close()
}

// TestVirtiofsdIsNobodyWhereAllCanBeShownSo: on a file system without ID-mapped mounts, which an overlay is, it has to be root.
func TestVirtiofsdIsNobodyWhereAllCanBeShownSo(t *testing.T) {
	dir := t.TempDir()
	needMapped(t, dir)
	inMountNamespace(t, func() error {
		shared, kubelet, plain := filepath.Join(dir, "shared"), filepath.Join(dir, "kubelet"), filepath.Join(dir, "pods", "uid", "volumes", "a")
		for _, d := range []string{shared, kubelet, plain, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount("overlay", plain, "overlay", 0, "lowerdir="+kubelet+",upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
			return err
		}
		for _, tt := range []struct {
			name, kubelet, pod string
			root               bool
		}{
			{name: "what all Pods have", kubelet: kubelet, pod: "other"},
			{name: "nothing is known", kubelet: ""},
			{name: "there is no kubelet", kubelet: dir + "/none", pod: "other"},
			{name: "a volume", kubelet: kubelet, pod: "uid", root: true},
			{name: "the kubelet's files", kubelet: plain, pod: "other", root: true},
		} {
			table := func() ([]mountPoint, error) {
				return []mountPoint{{point: "/", fstype: "ext4"}, {point: plain, fstype: "overlay"}}, nil
			}
			d := daemon{kubelet: tt.kubelet, table: table, pod: func() string { return tt.pod }}
			users, err := d.usersFor("/proc/self/exe", shared)
			if errors.Is(err, owners.ErrUnknown) != tt.root || !tt.root && err != nil {
				t.Errorf("%s: %v, want root: %v", tt.name, err, tt.root)
			}
			_ = users.Close()
		}
		return nil
	})
}

// TestSharedFilesAreThePodsUsers, once: Kata binds a file that is only read twice. What cannot be shown so is shown as it is.
func TestSharedFilesAreThePodsUsers(t *testing.T) {
	dir := t.TempDir()
	needMapped(t, dir)
	inMountNamespace(t, func() error {
		users, err := owners.New("/proc/self/exe")
		if err != nil {
			return err
		}
		defer users.Close()
		d := &daemon{users: users}
		file, first, proc := filepath.Join(dir, "hosts"), filepath.Join(dir, "first"), filepath.Join(dir, "proc")
		for _, f := range []string{file, first, proc} {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				return err
			}
		}
		if err := errors.Join(d.bind(file, first), d.bind("/proc/version", proc)); err != nil {
			return err
		}
		got, err := ownerOf(first)
		if want := uint32(owners.First + os.Getpid()); err != nil || got != want {
			t.Errorf("the file belongs to %d, %v; want %d", got, err, want)
		}
		if got, err := ownerOf(proc); err != nil || got != 0 {
			t.Errorf("a file that cannot be mapped belongs to %d, %v", got, err)
		}
		return nil
	})
}

// TestImagesArePodsUsers: an overlay cannot be mapped, what lies below one over an image can; one that is written to, or over several
// folders, stays as it is.
func TestImagesArePodsUsers(t *testing.T) {
	dir := t.TempDir()
	needMapped(t, dir)
	inMountNamespace(t, func() error {
		users, err := owners.New("/proc/self/exe")
		if err != nil {
			return err
		}
		defer users.Close()
		image, other, lower := filepath.Join(dir, "image-volumes", "a"), filepath.Join(dir, "other"), filepath.Join(dir, "lower")
		for _, d := range []string{image, other, lower, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(lower, "file"), nil, 0o600); err != nil {
			return err
		}
		for _, point := range []string{image, other} {
			if err := unix.Mount("overlay", point, "overlay", unix.MS_RDONLY, "lowerdir="+lower+",upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
				return err
			}
		}
		d := &daemon{users: users, table: func() ([]mountPoint, error) {
			return []mountPoint{{point: "/", fstype: "ext4"}, {point: image, fstype: "overlay", lower: lower}, {point: other, fstype: "overlay", lower: lower}}, nil
		}}
		mapped := uint32(owners.First + os.Getpid())
		for _, tt := range []struct {
			path     string
			readOnly bool
			want     uint32
		}{{image, true, mapped}, {image, false, 0}, {other, true, 0}, {lower, false, mapped}} {
			tree, err := d.show(tt.path, tt.readOnly)
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Fstatat(tree, "file", &st, 0); err != nil || st.Uid != tt.want {
				t.Errorf("%s, to read %v: its file belongs to %d, %v; want %d", tt.path, tt.readOnly, st.Uid, err, tt.want)
			}
			if err := unix.Close(tree); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestLowerOfAnOverlay(t *testing.T) {
	for options, want := range map[string]string{
		"rw,lowerdir=/a/0,upperdir=/u,workdir=/w,uuid=on": "/a/0", "ro,lowerdir+=/a": "/a", "ro,lowerdir=/a:/b": "", "ro,lowerdir+=/a,lowerdir+=/b": "",
		"ro,lowerdir+=/a,datadir+=/b": "", `ro,lowerdir=/a\\072b`: "", "ro": "",
	} {
		if got := lowerOf(&mountinfo.Info{FSType: "overlay", VFSOptions: options}); got != want {
			t.Errorf("%s lies over %q, want %q", options, got, want)
		}
	}
	if got := lowerOf(&mountinfo.Info{FSType: "ext4", VFSOptions: "rw,lowerdir=/a"}); got != "" {
		t.Errorf("a disk lies over %q", got)
	}
}
