// Package pull is containerd's transfer plugin "local", the one by which CRI pulls images, with the operator's registries
// (pkg/registries) behind it. The containerd child registers it with Register; containerd's own of that name is not linked.
//
// Why not containerd's settings: its hosts.toml knows neither credentials nor rewriting of names, its older registry tables
// have credentials only, are deprecated, and switch to another way of pulling. So the transfer itself is containerd's
// (core/transfer/local), and where CRI hands it a registry, this package puts one in its place that knows the mirrors. Who
// asks by other ways than CRI, such as `ctr images pull`, gets what he asks for.
//
// What CRI knows of credentials (those of the Pod's imagePullSecrets) it tells by the stream that containerd has for clients
// of another process. A folder of a registry below certs.d with containerd's own hosts.toml in it wins over everything here.
package pull
