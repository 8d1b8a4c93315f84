// Package rules says what may be in an object of a serverless cluster, and what of it has no effect here. Each Pod is a
// microVM of its own and there is no node to share, so some fields of Kubernetes mean nothing or would open the real
// host, and the annotations of TKE Serverless are taken by the same names. The apiserver's admission
// (pkg/server/apiserver/admission) calls it for each new object, and hands its findings to whoever sent the object.
//
// Everything here is decided by looking at one object: nothing is asked of the cluster, the clock or the host. A size is
// not checked here, that is pkg/podsize.
package rules
