// Package cri is the runtime service as the kubelet sees it: containerd's, with the few calls answered here that
// containerd cannot answer for a microVM, or not truthfully. pkg/worker runs the component between containerd and the kubelet.
//
//   - PortForward: containerd dials 127.0.0.1 in the Pod's network namespace, where nothing listens, because the Pod's
//     loopback is inside the guest. This package dials there, over the guest agent's channel.
//   - CreateContainer of a container that shares another one's PID namespace (`kubectl debug --target`): Kata drops
//     the path of the namespace, so the target's id is handed to the guest as an annotation.
//   - Exec and Attach: containerd runs them, and the stream goes through here. If it breaks off (containerd or the server
//     ends), the client is told so; Kubernetes' own clients take that for an exit code of 0.
//   - PullImage and CreateContainer go through with the namespace of their Pod beside them, by which containerd shares what it has
//     one of for all (pkg/worker/containerd/tenant).
//   - ContainerStatus: the kubelet reads a container's last message from a mount; it gets a copy that no guest can change.
//   - PodSandboxStats and ListPodSandboxStats: the memory and the disk of a Pod are what the host counts, not what its guest says.
//   - RunPodSandbox waits until its microVM may boot: as many boot at a time as there are cores, namespaces take turns, and a Pod keeps
//     its turn when the kubelet asks again.
//   - Errors of all calls, and what a container's status says of its end, are 2 KiB of text at most: they may be a guest's words.
//
// Every other call goes through undecoded, streams included. See docs/adr/0020 and 0024.
package cri
