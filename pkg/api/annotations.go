// Package api holds the names that parts of nodeless in different processes agree on.
package api

// PIDTarget is the annotation on a container that names the container whose PID namespace it shares. pkg/worker/cri sets it,
// containerd and Kata hand it through, pkg/guest acts on it. Its prefix is known to containerd's configuration.
const PIDTarget = "io.nodeless.pid-target"
