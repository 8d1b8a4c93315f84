// Package cri is the runtime service as the kubelet sees it: containerd's, with the two calls answered here that
// containerd cannot answer for a microVM. pkg/worker runs the component between containerd and the kubelet.
//
//   - PortForward: containerd dials 127.0.0.1 in the Pod's network namespace, where nothing listens, because the Pod's
//     loopback is inside the guest. This package dials there, over the guest agent's channel.
//   - CreateContainer of a container that shares another one's PID namespace (`kubectl debug --target`): Kata drops
//     the path of the namespace, so the target's id is handed to the guest as an annotation.
//
// Every other call goes through undecoded, streams included. See docs/adr/0020.
package cri
