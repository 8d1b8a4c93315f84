// Package memcg is what the daemons of a host may have of its memory, and what is kept back for them: pkg/cli bounds the server by it,
// pkg/worker containerd, and the kubelet leaves to Pods what remains. Bounds of processes are cgroups, of version 1 or 2.
package memcg

import (
	"bytes"
	"fmt"
	"os"
)

const mib = 1 << 20

// Budget is in bytes.
type Budget struct {
	Server        int64 // what Go aims at in the server, the garbage included
	Containerd    int64 // the same in containerd
	Converters    int64 // where the kernel ends conversions of layers, which run beside containerd, all of them together
	ContainerdMax int64 // where the kernel ends containerd; files that it has just written and shims that begin in its cgroup count too

	KubeReserved   int64 // kept back from Pods for both
	SystemReserved int64 // kept back for the kernel and for what else the host runs
}

// For divides the memory of a host that runs so many Pods.
func For(total int64, pods int) Budget {
	b := Budget{
		Server:         between(total/8, 1024*mib, 8192*mib),
		Containerd:     512 * mib,
		Converters:     between(total/12, 1024*mib, 1792*mib),
		KubeReserved:   min(between(total/12, 512*mib, 4096*mib), total/4),
		SystemReserved: min(between(total/64, 128*mib, 1024*mib), total/16),
	}
	const shim = 16 * mib // what one has used when it leaves for its Pod's cgroup
	b.ContainerdMax = b.Containerd + 512*mib + int64(pods)*shim
	return b
}

func between(n, least, most int64) int64 { return min(max(n, least), most) }

// Total is the host's memory; meminfo is /proc/meminfo.
func Total(meminfo string) (int64, error) {
	raw, err := os.ReadFile(meminfo)
	if err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	_, after, _ := bytes.Cut(raw, []byte("MemTotal:"))
	var kb int64
	if _, err := fmt.Fscan(bytes.NewReader(after), &kb); err != nil {
		return 0, fmt.Errorf("read the host's memory from %s: %w", meminfo, err)
	}
	return kb << 10, nil
}
