// Package container runs the containers of one sandbox inside the guest, by libcontainer: their
// processes, standard streams, exit statuses, cgroups and OOM events. pkg/guest/agent calls it for
// each message of the Kata agent protocol.
//
// The calling program is PID 1 and must hand over to libcontainer when it is started again with the
// argument "init", and to HoldPIDNamespace with HolderArg, before it does anything else. It needs
// root, cgroup v2 and a writable state directory.
package container
