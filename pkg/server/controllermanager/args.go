package controllermanager

import (
	"strings"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

// Args are the arguments of kube-controller-manager for c.
func Args(c Config) []string {
	args := []string{
		"--allocate-node-cidrs=false", // each host sets the Pod range of its node
		"--cluster-signing-kube-apiserver-client-cert-file=" + c.ClientCA,
		"--cluster-signing-kube-apiserver-client-key-file=" + c.ClientCAKey,
		"--cluster-signing-kubelet-client-cert-file=" + c.ClientCA,
		"--cluster-signing-kubelet-client-key-file=" + c.ClientCAKey,
		"--cluster-signing-kubelet-serving-cert-file=" + c.ServerCA,
		"--cluster-signing-kubelet-serving-key-file=" + c.ServerCAKey,
		// What this signer signs may be for any use: by the server authority it is no identity.
		"--cluster-signing-legacy-unknown-cert-file=" + c.ServerCA,
		"--cluster-signing-legacy-unknown-key-file=" + c.ServerCAKey,
		"--configure-cloud-routes=false",
		"--controller-shutdown-timeout=5s",
		// The TTL controller tells kubelets how long to cache Secrets; ours watch them. Autoscalers see to Pods in another way (autoscaler.go).
		"--controllers=" + strings.Join(append([]string{"*", "-ttl-controller", "-horizontal-pod-autoscaler-controller"}, less(c.Without)...), ","),
		// Programs in it would be run as the host's. It is always empty; upstream's own folder may hold those of another cluster.
		"--flex-volume-plugin-dir=" + c.VolumePlugins,
		// As often as there are new figures (pkg/server/metrics); the default is 15 s.
		"--horizontal-pod-autoscaler-sync-period=5s",
		"--kube-api-burst=200", // the defaults, 20 and 30, hold up the first seconds
		"--kube-api-qps=100",
		"--kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false",
		"--profiling=false",
		"--root-ca-file=" + c.ServerCA,
		"--secure-port=0",
		"--service-account-private-key-file=" + c.ServiceAccountKey,
		"--terminated-pod-gc-threshold=1000",
		"--use-service-account-credentials=true",
	}
	return append(args, kubeflags.Extra(c.ExtraArgs)...)
}

// less are the words that leave controllers out.
func less(names []string) (words []string) {
	for _, name := range names {
		words = append(words, "-"+name)
	}
	return words
}
