package kubelet

import kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

// Effective is the configuration that a kubelet of c runs with, as far as it does not depend on the host.
func Effective(c Config) (*kubeletconfig.KubeletConfiguration, error) {
	server, err := settings(c, hostFacts{resolvConf: c.ResolvConf, maxFiles: maxFiles()})
	if err != nil {
		return nil, err
	}
	return &server.KubeletConfiguration, nil
}
