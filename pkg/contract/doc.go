// Package contract holds what the programs of a host say to each other about a microVM: the words and shapes that one of them writes and
// another reads. Those programs are the server with its worker, the shim (cmd/kata-shim), nodeless-vmm and the guest. Each constant and
// each type says who writes it and who reads it.
//
// It is a Go module of its own, since the shim is one (docs/adr/0003) and both have to import it, and it requires nothing but
// golang.org/x/sys, so that neither binds the other to a version of anything (docs/adr/0029). Pods outlive their server: a shim, a
// nodeless-vmm and a guest of one version are spoken to by a server of the next. So a value here is not changed; another one is added, and
// the old one read as long as Pods may be there that were started with it.
//
// Words of Kata, Cloud Hypervisor and containerd are here if more than one of our programs has to know them.
package contract
