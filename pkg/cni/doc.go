// Package cni is the Pod network plugin "nodeless" and its configuration. cmd/nodeless-cni is the program that
// containerd starts for each Pod; pkg/worker/network writes the configuration file.
//
// A Pod gets one link, routed and not bridged: eth0 in the Pod has a single address (/32) and a default route by way
// of the host's gateway address; the host's end has a route to that one address. The gateway address lives on
// the bridge nodeless0, and the host answers for it on every link because it is local.
package cni
