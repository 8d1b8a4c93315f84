// Package agent answers the Kata agent protocol inside the microVM. cmd/nodeless-guest serves it on the
// connections that pkg/agentmux hands out; Kata's shim on the host is the caller.
//
// It translates messages and keeps the little state that spans them; pkg/guest/container runs
// processes, pkg/guest/mount mounts, pkg/guest/net configures the network.
package agent
