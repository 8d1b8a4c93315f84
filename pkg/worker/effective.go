package worker

import (
	"errors"

	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

	"github.com/nodeless/nodeless/pkg/worker/kubelet"
	"github.com/nodeless/nodeless/pkg/worker/proxy"
)

// Effective is what Steps gives kubelet and kube-proxy, for `nodeless check --cis`. Nothing is started or touched.
type Effective struct {
	Kubelet *kubeletconfig.KubeletConfiguration
	Proxy   []string // arguments; none when kube-proxy is left out
}

// Check refuses what kubelet or kube-proxy would refuse of their settings when they start. Nothing is started or touched.
func (c Config) Check() error {
	_, err := c.Effective()
	if c.NoProxy {
		return err
	}
	return errors.Join(err, proxy.Check(c.proxy()))
}

// Effective tells it of c, by the functions that Steps itself calls.
func (c Config) Effective() (Effective, error) {
	pods, err := c.Net.PodCIDR()
	if err != nil {
		return Effective{}, err
	}
	conf, err := kubelet.Effective(c.kubelet(pods))
	if err != nil || c.NoProxy {
		return Effective{Kubelet: conf}, err
	}
	return Effective{Kubelet: conf, Proxy: proxy.Args(c.proxy())}, nil
}
