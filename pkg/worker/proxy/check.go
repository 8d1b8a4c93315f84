package proxy

import (
	"github.com/spf13/pflag"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

// component is what upstream calls it.
const component = "kube-proxy"

// Check refuses what kube-proxy would refuse of c's arguments when it starts, and changes nothing.
func Check(c Config) error {
	opts := proxyapp.NewOptions()
	flags := pflag.NewFlagSet(component, pflag.ContinueOnError)
	opts.AddFlags(flags)
	extra := c.ExtraArgs
	c.ExtraArgs = nil
	if err := flags.Parse(Args(c)); err != nil {
		return kubeflags.Refused(component, err)
	}
	if err := kubeflags.Set(component, flags, extra); err != nil {
		return err
	}
	return kubeflags.Refused(component, opts.Validate())
}
