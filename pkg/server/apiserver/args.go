package apiserver

import (
	"strconv"
	"time"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
)

// maxTokenLife is how long a ServiceAccount's token may be valid; one that is asked for with a longer life is given with this one.
const maxTokenLife = 30 * 24 * time.Hour

// Args are the arguments of kube-apiserver for c.
func Args(c Config) []string {
	issuer := "https://kubernetes.default.svc." + c.ClusterDomain
	args := []string{
		"--admission-control-config-file=" + c.AdmissionFile,
		"--advertise-address=" + c.AdvertiseAddress,
		"--allow-privileged=true", // privileged within a microVM of its own
		"--authentication-config=" + c.AuthenticationFile,
		"--authorization-mode=Node,RBAC",
		"--bind-address=" + c.BindAddress,
		"--client-ca-file=" + c.Files.ClientCA,
		"--enable-admission-plugins=NodeRestriction,DenyServiceExternalIPs,EventRateLimit,UncountedBounds",
		"--encryption-provider-config=" + c.EncryptionFile,
		// The two polls count every kind and ask for the database's size for metrics only.
		"--etcd-count-metric-poll-period=10m",
		"--etcd-db-metric-poll-interval=10m",
		"--etcd-servers=" + c.Datastore,
		"--event-ttl=1h",
		"--feature-gates=EnvFiles=false", // the kubelet would read files that containers have written
		"--kubelet-certificate-authority=" + c.Files.KubeletCA,
		"--kubelet-client-certificate=" + c.Files.KubeletCert,
		"--kubelet-client-key=" + c.Files.KubeletKey,
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--profiling=false",
		"--proxy-client-cert-file=" + c.Files.FrontProxyCert,
		"--proxy-client-key-file=" + c.Files.FrontProxyKey,
		"--requestheader-allowed-names=" + c.Files.FrontProxyUser,
		"--requestheader-client-ca-file=" + c.Files.FrontProxyCA,
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--secure-port=" + strconv.Itoa(c.Port),
		// A Pod's token is renewed by its kubelet, every hour. One that is asked for has an end, whatever is asked.
		"--service-account-extend-token-expiration=false",
		"--service-account-issuer=" + issuer,
		"--service-account-key-file=" + c.Files.ServiceAccountKey,
		"--service-account-max-token-expiration=" + maxTokenLife.String(),
		"--service-account-signing-key-file=" + c.Files.ServiceAccountKey,
		"--service-cluster-ip-range=" + c.ServiceCIDR,
		"--service-node-port-range=" + c.NodePorts,
		"--shutdown-send-retry-after=true", // bounds what open watches may hold up the end by
		"--storage-backend=etcd3",
		"--tls-cert-file=" + c.Files.ServingCert,
		"--tls-private-key-file=" + c.Files.ServingKey,
	}
	if c.AuditLog != "" {
		args = append(args,
			// Blocking, which is a write to a file: a log that drops what comes too fast would not tell of those who hide in a flood.
			"--audit-log-compress=true",
			"--audit-log-maxage=30", // days
			"--audit-log-maxbackup=20",
			"--audit-log-maxsize=100", // MB
			"--audit-log-path="+c.AuditLog,
			"--audit-policy-file="+c.AuditPolicyFile,
		)
	}
	return append(args, kubeflags.Extra(c.ExtraArgs)...)
}
