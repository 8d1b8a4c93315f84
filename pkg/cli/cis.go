package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/preflight"
	"github.com/nodeless/nodeless/pkg/preflight/cis"
	"github.com/nodeless/nodeless/pkg/users"
	"github.com/nodeless/nodeless/pkg/worker"
)

// cisPatience is how long a running server may take to tell of itself.
const cisPatience = 10 * time.Second

// checkCIS answers the CIS Kubernetes Benchmark for the server on this host: for the one that runs, with the command line and the
// environment that it runs with; else for the one that would run with these settings.
func checkCIS(ctx context.Context, cfg config.Config, pid int) (preflight.Report, error) {
	var err error
	if pid != 0 {
		if cfg, err = runningConfig(os.DirFS("/proc"), pid); err != nil {
			return preflight.Report{}, err
		}
	}
	if cfg, err = cfg.Complete(os.Hostname, config.HostAddress); err != nil {
		return preflight.Report{}, err
	}
	facts, err := cisFacts(cfg)
	if err != nil {
		return preflight.Report{}, err
	}
	if pid != 0 {
		ctx, cancel := context.WithTimeout(ctx, cisPatience)
		defer cancel()
		if err := askServer(ctx, cfg, &facts); err != nil {
			return preflight.Report{}, fmt.Errorf("ask the running server (pid %d): %w", pid, err)
		}
	}
	return cis.Run(facts), nil
}

// cisFacts is what can be told without a server.
func cisFacts(cfg config.Config) (cis.Facts, error) {
	control, local := serverConfig(cfg), workerConfig(cfg)
	var err error
	if control.DNSBind, err = local.Net.Gateway(); err != nil {
		return cis.Facts{}, err
	}
	local.Files = worker.Files(control.WorkerFiles())
	server := control.Effective()
	node, err := local.Effective()
	if err != nil {
		return cis.Facts{}, err
	}
	data, units := cfg.Paths.Data, []string{}
	if record, err := os.ReadFile("/etc/nodeless/installed"); err == nil { // what install.sh wrote
		for line := range strings.Lines(string(record)) {
			if name := strings.TrimSpace(line); strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".service.env") {
				units = append(units, name)
			}
		}
	}
	return cis.Facts{
		Now: time.Now(), Root: os.DirFS("/"),
		Files: cis.Files{
			Datastore: data.DB(), Kubeconfig: server.Admin, TLS: []string{data.TLS(), data.AgentTLS()}, Cred: data.Cred(),
			Encryption: server.EncryptionFile, CNI: []string{cfg.Paths.Run.CNIConf(), data.CNI()}, Unit: units,
		},
		APIServer: cis.ParseFlags(server.APIServer), ControllerManager: cis.ParseFlags(server.ControllerManager), Scheduler: cis.ParseFlags(server.Scheduler),
		Proxy: cis.ParseFlags(node.Proxy), Kubelet: cisKubelet(node.Kubelet), OwnDatastore: server.OwnDatastore,
	}, nil
}

// cisKubelet takes over what the benchmark asks for.
func cisKubelet(conf *kubeletconfig.KubeletConfiguration) cis.Kubelet {
	k := cis.Kubelet{
		ReadOnlyPort: conf.ReadOnlyPort, StreamingIdle: conf.StreamingConnectionIdleTimeout.Duration.String(), MakeIPTablesUtilChains: conf.MakeIPTablesUtilChains,
		EventRecordQPS: conf.EventRecordQPS, TLSCertFile: conf.TLSCertFile, TLSPrivateKeyFile: conf.TLSPrivateKeyFile, TLSCipherSuites: conf.TLSCipherSuites,
		PodPidsLimit: conf.PodPidsLimit, ImageCredentials: string(conf.ImagePullCredentialsVerificationPolicy),
	}
	k.Authentication.Anonymous.Enabled = conf.Authentication.Anonymous.Enabled
	k.Authentication.Webhook.Enabled = conf.Authentication.Webhook.Enabled
	k.Authentication.X509.ClientCAFile = conf.Authentication.X509.ClientCAFile
	k.Authorization.Mode = string(conf.Authorization.Mode)
	return k
}

// runningConfig is the configuration of the server with this pid, from its own command line and environment.
func runningConfig(proc fs.FS, pid int) (config.Config, error) {
	read := func(name string) ([]string, error) {
		text, err := fs.ReadFile(proc, fmt.Sprintf("%d/%s", pid, name))
		return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), err
	}
	args, err := read("cmdline")
	env, envErr := read("environ")
	if err := errors.Join(err, envErr); err != nil {
		return config.Config{}, &hint.Error{Op: "read the settings of the running server", Err: err, Do: "run it as root"}
	}
	lookup := func(name string) (string, bool) {
		for _, e := range slices.Backward(env) {
			if key, value, _ := strings.Cut(e, "="); key == name {
				return value, true
			}
		}
		return "", false
	}
	return config.Load(config.Sources{Flags: givenFlags(args), Env: lookup})
}

// givenFlags reads the flags of `nodeless server` from a command line.
func givenFlags(args []string) map[string][]string {
	given := map[string][]string{}
	for _, o := range config.Options() {
		for i, arg := range args {
			name, value, has := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
			if !strings.HasPrefix(arg, "-") || name != o.Name {
				continue
			}
			if !has && i+1 < len(args) {
				value = args[i+1]
			}
			if o.Kind == config.Scalar {
				given[name] = nil // the last one counts
			}
			given[name] = append(given[name], value)
		}
	}
	return given
}

// askServer replaces what can be known better: the settings that the kubelet says it has, and the objects of the cluster.
func askServer(ctx context.Context, cfg config.Config, facts *cis.Facts) error {
	access, err := kube.FromKubeconfig(facts.Files.Kubeconfig)
	if err != nil {
		return err
	}
	access.UserAgent = "nodeless-check"
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}
	raw, err := client.CoreV1().RESTClient().Get().Resource("nodes").Name(cfg.Node.Name).SubResource("proxy").Suffix("configz").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("ask the kubelet: %w", err)
	}
	var told struct {
		Kubelet *cis.Kubelet `json:"kubeletconfig"`
	}
	if err := json.Unmarshal(raw, &told); err != nil || told.Kubelet == nil {
		return fmt.Errorf("ask the kubelet: it tells nothing of its settings (%w)", err)
	}
	facts.Kubelet = *told.Kubelet
	facts.Cluster, err = lookAtCluster(ctx, client)
	return err
}

// lookAtCluster gathers what the benchmark asks about objects.
func lookAtCluster(ctx context.Context, client kubernetes.Interface) (*cis.Cluster, error) {
	var found cis.Cluster
	all := metav1.ListOptions{}
	bindings, err := client.RbacV1().ClusterRoleBindings().List(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, b := range bindings.Items {
		if b.RoleRef.Name == "cluster-admin" && b.Name != "cluster-admin" && b.Name != "nodeless:administrator" {
			found.ClusterAdmins = append(found.ClusterAdmins, b.Name)
		}
	}
	roles, err := client.RbacV1().ClusterRoles().List(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, r := range roles.Items {
		foreign := !strings.HasPrefix(r.Name, "system:") && !strings.HasPrefix(r.Name, "nodeless:") && r.Labels["kubernetes.io/bootstrapping"] == ""
		for _, rule := range r.Rules {
			if foreign && slices.Contains(rule.Verbs, "*") && slices.Contains(rule.Resources, "*") {
				found.WildcardRoles = append(found.WildcardRoles, r.Name)
				break
			}
		}
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, all)
	if err != nil {
		return nil, err
	}
	found.InDefault = len(pods.Items)
	return &found, lookAtNamespaces(ctx, client, &found)
}

func lookAtNamespaces(ctx context.Context, client kubernetes.Interface, found *cis.Cluster) error {
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	quotas, err := client.CoreV1().ResourceQuotas(corev1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	bounded := map[string]bool{}
	for _, q := range quotas.Items {
		bounded[q.Namespace] = true
	}
	for _, ns := range namespaces.Items {
		if ns.Labels[users.Label] != "" {
			found.TenantNamespaces++
			if !bounded[ns.Name] {
				found.WithoutQuota = append(found.WithoutQuota, ns.Name)
			}
		}
	}
	accounts, err := client.CoreV1().ServiceAccounts(corev1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=default"})
	if err != nil {
		return err
	}
	for _, a := range accounts.Items {
		if !strings.HasPrefix(a.Namespace, "kube-") && (a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken) {
			found.DefaultAccounts = append(found.DefaultAccounts, a.Namespace)
		}
	}
	return nil
}
