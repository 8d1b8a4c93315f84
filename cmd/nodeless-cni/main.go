// Command nodeless-cni is the CNI plugin that containerd starts to connect and disconnect a Pod.
// It is a program of its own because it runs for each Pod: the big one takes a tenth of a second to start.
package main

import (
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/nodeless/nodeless/pkg/cni"
	"github.com/nodeless/nodeless/pkg/version"
)

func main() {
	runtime.LockOSThread() // namespaces belong to threads
	skel.PluginMainFuncs(cni.Funcs(), cniversion.All, "nodeless CNI plugin "+version.Version)
}
