package preflight

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// listener is a TCP socket in state LISTEN.
type listener struct {
	port  int
	inode string
}

// listeners reads /proc/net/tcp and tcp6.
func listeners(proc fs.FS) []listener {
	var out []listener
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		data, err := fs.ReadFile(proc, file)
		if err != nil {
			continue // no IPv6
		}
		for _, line := range strings.Split(string(data), "\n") {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
				out = append(out, listener{port: int(port), inode: f[9]})
			}
		}
	}
	return out
}

func checkPorts(h Host, s Settings) []Result {
	open := listeners(h.Proc)
	var out []Result
	for _, p := range s.Ports {
		name := fmt.Sprintf("port %d", p.Number)
		i := slices.IndexFunc(open, func(l listener) bool { return l.port == p.Number })
		if i < 0 {
			out = append(out, pass(name, "free ("+p.Of+")"))
			continue
		}
		pid, comm := owner(h.Proc, open[i].inode)
		if pid != 0 && pid == s.ServerPID {
			out = append(out, pass(name, fmt.Sprintf("used by the running server (pid %d)", pid)))
			continue
		}
		detail, do := "in use", "stop what listens there (ss -ltnp shows it)"
		if pid != 0 {
			detail, do = fmt.Sprintf("in use by %s (pid %d)", comm, pid), fmt.Sprintf("stop %s (pid %d)", comm, pid)
		}
		if p.Flag != "" {
			do += ", or choose another port with " + p.Flag
		}
		out = append(out, fail(name, detail, do))
	}
	return out
}

// owner finds the process that has the socket open; pid 0 if that cannot be seen.
func owner(proc fs.FS, inode string) (pid int, comm string) {
	want := "socket:[" + inode + "]"
	for _, p := range processes(proc) {
		fds, err := fs.ReadDir(proc, p.dir+"/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if link, err := fs.ReadLink(proc, p.dir+"/fd/"+fd.Name()); err == nil && link == want {
				return p.pid, p.comm
			}
		}
	}
	return 0, ""
}

// process is an entry of /proc.
type process struct {
	pid       int
	dir, comm string
}

func processes(proc fs.FS) []process {
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return nil
	}
	var out []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := fs.ReadFile(proc, e.Name()+"/comm")
		if err != nil {
			continue // gone meanwhile
		}
		out = append(out, process{pid: pid, dir: e.Name(), comm: strings.TrimSpace(string(comm))})
	}
	return out
}

// foreign are the programs of other Kubernetes distributions, as /proc/<pid>/comm shows them (15 characters).
var foreign = []string{"kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2", "kube-apiserver", "kube-proxy", "kube-controller", "kube-scheduler", "microshift"}

func checkForeign(h Host, _ Settings) []Result {
	const name = "other clusters"
	var found []string
	for _, p := range processes(h.Proc) {
		if slices.Contains(foreign, p.comm) {
			found = append(found, fmt.Sprintf("%s (pid %d)", p.comm, p.pid))
		}
	}
	if len(found) > 0 {
		return []Result{warn(name, "running: "+strings.Join(found, ", "), "stop the other Kubernetes: two of them fight over ports, addresses and packet filter rules")}
	}
	if confs, err := fs.Glob(h.Etc, "cni/net.d/*.conf*"); err == nil && len(confs) > 0 {
		return []Result{warn(name, "network configuration of another one: /etc/"+strings.Join(confs, ", /etc/"), "no action needed: nodeless uses its own; remove them if that cluster is gone")}
	}
	return []Result{pass(name, "none")}
}
