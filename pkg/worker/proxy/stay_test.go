package proxy

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubeproxy "k8s.io/kubernetes/pkg/proxy"
	kubeproxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"

	"github.com/nodeless/nodeless/pkg/kube"
)

// TestADeletedNodeEndsNothing: kube-proxy's own answer to it ends the process, and with it this test.
func TestADeletedNodeEndsNothing(t *testing.T) {
	at := func(address string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}}
	}
	client := fake.NewClientset(at("10.42.0.1"))
	manager, err := kubeproxy.NewNodeManager(t.Context(), client, "own", &kubeproxyconfig.KubeProxyConfiguration{})
	if err != nil {
		t.Fatal(err)
	}
	faults := make(chan error, 10)
	if !stay(manager, "own", func(err error) { faults <- err }) {
		t.Fatal("the way out of kube-proxy is not where it was")
	}
	manager.OnNodeDelete(at("10.42.0.1")) // it is there again
	if err := client.CoreV1().Nodes().Delete(t.Context(), "own", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = kube.Wait(ctx, "no Node", func(context.Context) (bool, error) {
		_, err := manager.NodeInformer().Lister().Get("own")
		return err != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	manager.OnNodeDelete(at("10.42.0.1"))
	if len(faults) > 0 {
		t.Errorf("a deleted Node is a fault: %v", <-faults)
	}
	if err := manager.NodeInformer().Informer().GetStore().Add(at("10.42.0.9")); err != nil {
		t.Fatal(err)
	}
	manager.OnNodeChange(at("10.42.0.9"))
	if len(faults) != 1 || !errors.Is(<-faults, errAddresses) {
		t.Error("another address is no fault")
	}
}

// TestWhereKubeProxyKeepsItsServer: managerOf looks there.
func TestWhereKubeProxyKeepsItsServer(t *testing.T) {
	field, ok := reflect.TypeFor[proxyapp.Options]().FieldByName("proxyServer")
	if !ok || field.Type.Kind() != reflect.Interface || !reflect.TypeFor[*proxyapp.ProxyServer]().Implements(field.Type) {
		t.Errorf("options of kube-proxy have %v", field)
	}
	if managerOf(proxyapp.NewOptions()) != nil {
		t.Error("a kube-proxy that was not started follows a Node")
	}
}
