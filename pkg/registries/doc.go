// Package registries reads the operator's file of image registries, /etc/nodeless/registries.yaml: mirrors, credentials
// and certificates, in the form that users of k3s know (docs/registries.md). pkg/cli reads it to refuse a wrong one before
// anything starts, pkg/worker/containerd to pull images by it.
//
// Reading is strict: an unknown key, a URL that is none, a certificate that cannot be loaded are faults, and all faults of
// a file are reported at once, each with its line. No error shows a password.
package registries
