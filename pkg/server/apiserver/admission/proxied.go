package admission

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
)

// lookTimeout is how long a Pod may be looked for that the informer does not know yet.
const lookTimeout = 5 * time.Second

// Proxied is whom the apiserver calls for somebody by pods/proxy and services/proxy: Pods of the request's own namespace that run now, in
// a microVM or for one who was given their class. It decides on the address that is called, when the connection is made: what a Pod, a
// Service or its endpoints said before may have changed since. Whoever has nodes/proxy reaches hosts by that.
type Proxied struct {
	Pods       corelisters.PodLister
	Client     kubernetes.Interface // for Pods that the lister does not know yet
	Authorizer authorizer.Authorizer
}

// Transport is upstream's for these requests, with the decision. Each request has a connection of its own, so that none is used for
// another's.
func (p Proxied) Transport(upstream *http.Transport) *http.Transport {
	t := upstream.Clone()
	t.DisableKeepAlives, t.ForceAttemptHTTP2 = true, false
	t.TLSNextProto = nil
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	if t.TLSClientConfig != nil {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	t.DialContext = p.dial(t.DialContext)
	return t
}

func (p Proxied) dial(next utilnet.DialFunc) utilnet.DialFunc {
	if next == nil {
		next = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := p.decide(ctx, addr); err != nil {
			return nil, err
		}
		return next(ctx, network, addr)
	}
}

// decide refuses an address that the sender of the request has no business at.
func (p Proxied) decide(ctx context.Context, addr string) error {
	info, known := request.RequestInfoFrom(ctx)
	user, named := request.UserFrom(ctx)
	if !known || !named {
		return apierrors.NewInternalError(fmt.Errorf("call %s: for whom is not known", addr))
	}
	if info.Resource == "nodes" {
		return nil
	}
	refuse := func(why string) error {
		return apierrors.NewForbidden(core.Resource(info.Resource+"/"+info.Subresource), info.Name, fmt.Errorf("%s: %s", addr, why))
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("call %q: %w", addr, err))
	}
	found, err := p.at(ctx, info.Namespace, host)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return refuse("no Pod of the namespace that runs has this address")
	}
	for _, pod := range found {
		w := who{p.Authorizer, info.Namespace, sender(user), pod.Spec.ServiceAccountName}
		switch class := pod.Spec.RuntimeClassName; {
		case pod.Spec.HostNetwork && (class == nil || *class == RuntimeClass):
			return refuse("the address is the host's, not that of a microVM")
		case w.outside(ctx, class):
			return refuse(fmt.Sprintf(notGiven, "spec.runtimeClassName", *class))
		}
	}
	return nil
}

// at are the Pods of the namespace that have the address and have not ended.
func (p Proxied) at(ctx context.Context, namespace, ip string) ([]*corev1.Pod, error) {
	all, err := p.Pods.Pods(namespace).List(labels.Everything())
	if found := liveAt(all, ip); err != nil || len(found) > 0 {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	now, err := p.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("status.podIP", ip).String()})
	if err != nil {
		return nil, fmt.Errorf("look for the Pod with address %s: %w", ip, err)
	}
	all = nil
	for i := range now.Items {
		all = append(all, &now.Items[i])
	}
	return liveAt(all, ip), nil
}

func liveAt(pods []*corev1.Pod, ip string) (found []*corev1.Pod) {
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, has := range pod.Status.PodIPs {
			if has.IP == ip {
				found = append(found, pod)
				break
			}
		}
	}
	return found
}
