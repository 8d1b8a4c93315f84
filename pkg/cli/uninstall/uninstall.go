// Package uninstall decides which files of an installation to remove, removes them, and stops the server before that.
// pkg/cli calls it around pkg/teardown, which ends what runs. It removes what nodeless made and nothing else: the
// operator's configuration and foreign files in our folders stay, and folders go only when they are empty.
package uninstall

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
)

// Service is the name that install.sh gives the unit.
const Service = "nodeless"

// Config says what was installed where.
type Config struct {
	Data       datadir.Dir
	Run        datadir.RunDir
	Kubeconfig string
	PodLogs    string // what the kubelet's links to our logs point into; empty for none
	Root       string // stands in front of places that are wired into libraries, for tests; empty: /
	Record     string // the list that install.sh wrote; it may be missing
	KeepData   bool   // leaves datastore, certificates, images and volumes
}

// Item is one thing to remove.
type Item struct {
	Path  string
	Empty bool // a folder that goes only if nothing is left in it
	File  bool // anything but a folder; a folder that is there by now stays
}

// Plan lists what is there to remove, in order.
func Plan(cfg Config) ([]Item, error) {
	var items []Item
	add := func(path string) {
		if _, err := os.Lstat(path); err == nil {
			items = append(items, Item{Path: path})
		}
	}
	file := func(path string) {
		if info, err := os.Lstat(path); err == nil && !info.IsDir() {
			items = append(items, Item{Path: path, File: true})
		}
	}
	if signed(string(cfg.Run), "containerd", "cni") {
		add(string(cfg.Run))
	}
	links, err := cfg.logLinks()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		file(link)
	}
	wired, err := cfg.wired()
	if err != nil {
		return nil, err
	}
	items = append(items, wired...)
	add(cfg.Data.Bundles())
	if !cfg.KeepData {
		add(filepath.Join(string(cfg.Data), "server"))
		add(filepath.Join(string(cfg.Data), "agent"))
		replaced, err := filepath.Glob(filepath.Join(string(cfg.Data), "server.replaced-*")) // by `restore --force`
		if err != nil {
			return nil, err
		}
		for _, path := range replaced {
			add(path)
		}
		file(cfg.Data.Lock())
		items = append(items, Item{Path: string(cfg.Data), Empty: true})
	}
	file(cfg.Kubeconfig)
	recorded, err := readRecord(cfg.Record)
	if err != nil {
		return nil, err
	}
	for _, path := range recorded {
		if installable(path) && !foreignLink(path) {
			file(path)
		}
	}
	file(cfg.Record)
	return append(items, Item{Path: filepath.Dir(cfg.Record), Empty: true}), nil
}

// logLinks are the kubelet's links into our Pod logs. Their folder is wired into it, and other kubelets use it too.
func (cfg Config) logLinks() ([]string, error) {
	links, err := filepath.Glob(cfg.place("var/log/containers/*.log"))
	if err != nil || cfg.PodLogs == "" {
		return nil, err
	}
	return slices.DeleteFunc(links, func(link string) bool {
		to, err := os.Readlink(link)
		return err != nil || !strings.HasPrefix(to, cfg.PodLogs+"/")
	}), nil
}

func (cfg Config) place(path string) string { return filepath.Join("/", cfg.Root, path) }

// wired lists what libraries put where we cannot choose: libcni's memory of our network, the sockets of the kubelet and
// of the syslog that Kata asks for, which stay when a server is killed. Folders go if nobody else uses them.
func (cfg Config) wired() ([]Item, error) {
	var items []Item
	results, err := filepath.Glob(cfg.place("var/lib/cni/results/" + cni.Type + "-*"))
	if err != nil {
		return nil, err
	}
	for _, path := range results {
		items = append(items, Item{Path: path, File: true})
	}
	for _, socket := range []string{"run/syslog", "var/lib/kubelet/device-plugins/kubelet.sock"} {
		if path := cfg.place(socket); dead(path) {
			items = append(items, Item{Path: path, File: true})
		}
	}
	for _, dir := range []string{"var/lib/cni/results", "var/lib/cni", "var/lib/kubelet/device-plugins", "var/lib/kubelet", "var/log/containers"} {
		items = append(items, Item{Path: cfg.place(dir), Empty: true})
	}
	return items, nil
}

// dead tells whether path is a socket that nobody listens on.
func dead(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return false
	}
	for _, network := range []string{"unix", "unixgram"} {
		conn, err := net.Dial(network, path)
		if err == nil {
			_ = conn.Close() // only a question
			return false
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPROTOTYPE) {
			return false
		}
	}
	return true
}

// signed tells whether dir holds the names, so that a wrong setting cannot make us remove somebody's folder.
func signed(dir string, names ...string) bool {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// installable tells whether install.sh makes files of such a name. The record says in which folders; what else it says, by an accident or
// because somebody could write to it, is not removed.
func installable(path string) bool {
	switch filepath.Base(path) {
	case Service, Service + ".service", Service + ".service.env", "kubectl", "crictl", "ctr":
		return true
	}
	return false
}

// foreignLink tells whether path was a link of ours and is something else by now.
func foreignLink(path string) bool {
	switch filepath.Base(path) {
	case "kubectl", "crictl", "ctr":
		to, err := os.Readlink(path)
		return err != nil || to != Service
	}
	return false
}

// maxRecord bounds what is read of the record, which has a few lines.
const maxRecord = 64 << 10

// readRecord gives the lines of install.sh's record that are absolute paths. One that others than root, or whoever runs this, can write is
// refused: it says what is removed.
func readRecord(path string) (out []string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read install record: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read install record: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || int(stat.Uid) != os.Geteuid() {
		return nil, &hint.Error{Op: "read install record", On: path, Err: errors.New("others than root could have written it"),
			Do: "look at what it says; if it is right, `chown root " + path + "` and `chmod 644 " + path + "`, otherwise remove it"}
	}
	sc := bufio.NewScanner(io.LimitReader(f, maxRecord))
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); filepath.IsAbs(line) {
			out = append(out, filepath.Clean(line))
		}
	}
	return out, sc.Err()
}

// Remove removes the items. It refuses to go below a folder on which something is mounted: that is not ours.
func Remove(items []Item, mounts func() ([]string, error)) error {
	mounted, err := mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, item := range items {
		if item.Empty {
			err := os.Remove(item.Path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
				err = nil // gone, not only ours, or the operator's own file system
			}
			errs = append(errs, err)
			continue
		}
		if at := below(item.Path, mounted); at != "" {
			errs = append(errs, &hint.Error{Op: "remove", On: item.Path, Err: fmt.Errorf("%s is still mounted", at), Do: "umount " + at + " and run `nodeless uninstall` again"})
			continue
		}
		if item.File {
			errs = append(errs, removeFile(item.Path))
			continue
		}
		errs = append(errs, os.RemoveAll(item.Path))
	}
	return errors.Join(errs...)
}

// removeFile removes anything but a folder, also an empty one, which os.Remove would take.
func removeFile(path string) error {
	err := unix.Unlink(path)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EISDIR) {
		return nil
	}
	return &fs.PathError{Op: "remove", Path: path, Err: err}
}

// below gives the mount point at or below path, or "".
func below(path string, mounted []string) string {
	for _, m := range mounted {
		if m == path || strings.HasPrefix(m, path+"/") {
			return m
		}
	}
	return ""
}

// Mounts lists the mount points that this process sees.
func Mounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var out []string
	for _, m := range mounts {
		out = append(out, m.Mountpoint)
	}
	return out, nil
}

// Stop ends the server that holds the data folder's lock and waits until it has given the lock back. A server that
// systemd runs is stopped by systemd, which would start it again otherwise.
func Stop(ctx context.Context, cfg Config) error {
	if err := disable(ctx, cfg); err != nil {
		return err
	}
	signalled := 0
	for {
		pid, err := lock.Holder(cfg.Data.Lock())
		if err != nil || pid == 0 {
			return err
		}
		if pid != signalled {
			if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stop server, pid %d: %w", pid, err)
			}
			signalled = pid
		}
		select {
		case <-ctx.Done():
			return &hint.Error{Op: "stop server", On: fmt.Sprintf("pid %d", pid), Err: ctx.Err(), Do: fmt.Sprintf("end it yourself (kill -9 %d) and run `nodeless uninstall` again", pid)}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// disable keeps systemd from running the server: now, if it is the machine's init, and after the next boot.
func disable(ctx context.Context, cfg Config) error {
	ours, err := hasUnit(cfg)
	if err != nil || !ours {
		return err
	}
	if booted() {
		return systemctl(ctx, "disable", "--now", Service)
	}
	return systemctl(ctx, "disable", Service)
}

// hasUnit tells whether install.sh made a service.
func hasUnit(cfg Config) (bool, error) {
	recorded, err := readRecord(cfg.Record)
	return slices.ContainsFunc(recorded, func(path string) bool { return filepath.Base(path) == Service+".service" }), err
}

// booted tells whether systemd is the init of this machine, as sd_booted(3) does.
func booted() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// Reload lets systemd forget the removed unit.
func Reload(ctx context.Context) error {
	if !booted() {
		return nil
	}
	return systemctl(ctx, "daemon-reload")
}

// systemctl runs it where it exists.
func systemctl(ctx context.Context, args ...string) error {
	if _, err := exec.LookPath("systemctl"); err != nil {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
