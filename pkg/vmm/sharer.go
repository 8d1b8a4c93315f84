package vmm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sharer is what writes to a Pod's volumes on the host: virtiofsd, and the child that it does its work in.
type sharer struct {
	id      string // the sandbox
	stopped []int  // pids

	found time.Time // when pids was found
	pids  []int     // whose writes count
}

// findAgain is how long what was found is believed: looking through all processes and mounts of a host takes its time.
const findAgain = 5 * time.Second

// written is how much the Pod has ever written to what the host shares with it, if some of that lies on the host's disk. comparable tells
// whether that can be compared with what was said before. It is what was asked for, not what it takes of the disk: a Pod that writes
// where it has written before counts as well.
func (s *sharer) written(now time.Time) (sum int64, comparable bool) {
	comparable = true
	if now.Sub(s.found) >= findAgain {
		var pids []int
		if volumes, files := s.onHostDisk(); volumes || files {
			pids = s.processes()
		}
		comparable = slices.Equal(pids, s.pids)
		s.found, s.pids = now, pids
	}
	for _, pid := range s.pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(raw)) {
			if value, ok := strings.CutPrefix(line, "wchar: "); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64) // the kernel writes numbers
				sum += n
			}
		}
	}
	return sum, comparable
}

// onHostDisk tells whether one of the Pod's volumes is an emptyDir on the host, and whether single files there are shared with it.
func (s *sharer) onHostDisk() (volumes, files bool) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return false, false
	}
	return sharedWith(mounts, s.id)
}

// sharedWith looks among the mounts below a sandbox's folders for emptyDirs, and for the files that the kubelet makes for a container to
// write to: /etc/hosts and the last message.
func sharedWith(mounts []*mountinfo.Info, id string) (volumes, files bool) {
	for _, m := range mounts {
		if !strings.Contains(m.Mountpoint, "/"+id+"/") {
			continue
		}
		_, below, _ := strings.Cut(m.Root, "/pods/")
		_, below, _ = strings.Cut(below, "/") // of the Pod's UID
		volumes = volumes || strings.Contains(m.Root, "/kubernetes.io~empty-dir/")
		files = files || below == "etc-hosts" || strings.HasPrefix(below, "containers/")
	}
	return volumes, files
}

// processes are the pids of the sandbox's virtiofsd.
func (s *sharer) processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && servesVolumes(strings.Split(string(raw), "\x00"), s.id) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// servesVolumes tells whether a command line is that of the sandbox's virtiofsd.
func servesVolumes(args []string, id string) bool {
	daemon, folder := false, false
	for _, arg := range args {
		daemon = daemon || filepath.Base(arg) == "virtiofsd"
		folder = folder || strings.HasPrefix(arg, "--shared-dir=") && strings.Contains(arg, "/"+id+"/")
	}
	return daemon && folder
}

// stop lets what is shared wait, if some of it is on the host's disk: reads as well, since the daemon does one like the other. A Pod that
// has single files there and no volume is let read them, unless it has written to them.
func (s *sharer) stop(wrote bool) {
	if volumes, files := s.onHostDisk(); !volumes && !(files && wrote) || len(s.stopped) > 0 {
		return
	}
	for _, pid := range s.processes() {
		if unix.Kill(pid, unix.SIGSTOP) == nil {
			s.stopped = append(s.stopped, pid)
		}
	}
}

// release lets them go on.
func (s *sharer) release() {
	for _, pid := range s.stopped {
		_ = unix.Kill(pid, unix.SIGCONT) // fails only when it has ended
	}
	s.stopped = nil
}
