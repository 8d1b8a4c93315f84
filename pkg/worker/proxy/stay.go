package proxy

import (
	"errors"
	"reflect"
	"unsafe"

	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubeproxy "k8s.io/kubernetes/pkg/proxy"
	utilnode "k8s.io/kubernetes/pkg/util/node"
)

// errAddresses is a fault: kube-proxy works with the addresses that the Node had when it started.
var errAddresses = errors.New("the Node's addresses have changed, and kube-proxy has to start again with them")

// managerOf finds the part of a running kube-proxy that follows its Node; nil if it is not where it was in Kubernetes 1.37. Options have
// no name for it that others may use.
func managerOf(opts *proxyapp.Options) *kubeproxy.NodeManager {
	server := reflect.ValueOf(opts).Elem().FieldByName("proxyServer")
	if !server.IsValid() || server.Kind() != reflect.Interface || server.IsNil() || server.Elem().Type() != reflect.TypeFor[*proxyapp.ProxyServer]() {
		return nil
	}
	return (*proxyapp.ProxyServer)(server.Elem().UnsafePointer()).NodeManager
}

// stay keeps kube-proxy from ending the process, which it does by itself when its Node is deleted: the apiserver and all others would end
// with it on the spot. The Node comes back (pkg/server/nodekeeper). Its other reason is a fault like any other's. It says whether
// kube-proxy is as it was in Kubernetes 1.37.
func stay(manager *kubeproxy.NodeManager, name string, fault func(error)) bool {
	if manager == nil {
		return false
	}
	exit := reflect.ValueOf(manager).Elem().FieldByName("exitFunc")
	if !exit.IsValid() || exit.Type() != reflect.TypeFor[func(int)]() {
		return false
	}
	*(*func(int))(unsafe.Pointer(exit.UnsafeAddr())) = func(int) {
		node, err := manager.NodeInformer().Lister().Get(name)
		if err != nil {
			return // it is gone
		}
		now, err := utilnode.GetNodeHostIPs(node)
		if err == nil && !reflect.DeepEqual(now, manager.NodeIPs()) {
			fault(errAddresses)
		}
	}
	return true
}
