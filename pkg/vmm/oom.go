package vmm

import (
	"fmt"
	"os"
	"strconv"

	"github.com/nodeless/nodeless/pkg/memcg"
)

// oomScore is what the kernel adds to a microVM's share of the host's memory, in thousandths, when it looks for somebody to end. With it
// a microVM that has all the memory it was sold comes to 1000, however large it is. One that has grown beyond that comes to more. So the
// one that grew goes first, not the largest, and all of them before the daemons. The kubelet does the same for ordinary containers.
func oomScore(guest, host int64) int {
	if host <= 0 {
		return 0
	}
	return int(min(max(1000-1000*guest/host, 2), 999))
}

// rankForOOM gives QEMU its score; without one it would have containerd's, which is protected.
func rankForOOM(proc string, pid int, guest int64) error {
	host, err := memcg.Total(proc + "/meminfo")
	if err != nil {
		return err
	}
	file := fmt.Sprintf("%s/%d/oom_score_adj", proc, pid)
	return os.WriteFile(file, []byte(strconv.Itoa(oomScore(guest, host))), 0)
}

// rank ranks the microVM's QEMU, if there is one. Some hosts let nobody do so; its Pod's cgroup bounds it all the same.
func (v *vm) rank(p *process, guest int64) {
	if p == nil {
		return
	}
	if err := rankForOOM("/proc", p.cmd.Process.Pid, guest); err != nil {
		v.log.Debug("not ranked for the kernel's memory killer", "err", err)
	}
}
