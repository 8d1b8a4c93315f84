package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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

// TestVirtiofsdIsNobodyWhereAllCanBeShownSo: on a file system without ID-mapped mounts, which an overlay is, it has to be root.
func TestVirtiofsdIsNobodyWhereAllCanBeShownSo(t *testing.T) {
	inMountNamespace(t, func() error {
		dir := t.TempDir()
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
			table := func() ([]mountPoint, error) { return []mountPoint{{point: "/", fstype: "ext4"}, {point: plain, fstype: "overlay"}}, nil }
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
	inMountNamespace(t, func() error {
		dir := t.TempDir()
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
