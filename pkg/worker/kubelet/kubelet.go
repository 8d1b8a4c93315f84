package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/configz"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// configzName is what the kubelet registers its settings under.
const configzName = "kubeletconfig"

// Kubelet is the component.
type Kubelet struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*Kubelet)(nil)
	_ run.Readier   = (*Kubelet)(nil)
)

// New gives a kubelet that has not touched the host yet.
func New(cfg Config, log *slog.Logger) *Kubelet { return &Kubelet{cfg: cfg, log: log} }

// Name is "kubelet".
func (k *Kubelet) Name() string { return "kubelet" }

// Run runs Pods until ctx ends. The Pods themselves stay.
func (k *Kubelet) Run(ctx context.Context) error {
	if err := k.cfg.Validate(); err != nil {
		return err
	}
	// The kubelet ends the process without a word that helps when a port is taken; look first.
	for _, addr := range []string{":" + strconv.Itoa(port), net.JoinHostPort("127.0.0.1", strconv.Itoa(healthzPort))} {
		if err := portFree(addr); err != nil {
			return err
		}
	}
	mounted, err := hostCgroups()
	if err != nil {
		return err
	}
	if err := prepareCgroups(mounted, k.cfg.CgroupRoot); err != nil {
		return err
	}
	resolv, err := resolvConf(k.cfg.HostResolvConf, k.cfg.ResolvConf)
	if err != nil {
		return err
	}
	server, err := settings(k.cfg, hostFacts{resolvConf: resolv, oomScoreAdj: oomScoreAdj("/proc/self"), maxFiles: maxFiles()})
	if err != nil {
		return err
	}
	deps, err := kubeletapp.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("prepare kubelet: %w", err)
	}
	deps.VolumePlugins, deps.DynamicPluginProber = volumePlugins(ctx, k.log), nil
	if deps.CAdvisorInterface, err = measure(ctx, server, k.cfg.CPUOvercommit); err != nil {
		return err
	}
	defer configz.Delete(configzName)
	return kubeletapp.Run(ctx, server, deps, utilfeature.DefaultFeatureGate)
}

// Ready waits until the Node is Ready, and gives it its Pod range on the way.
func (k *Kubelet) Ready(ctx context.Context) error {
	cfg, err := kube.FromKubeconfig(k.cfg.Kubeconfig)
	if err != nil {
		return err
	}
	cfg.UserAgent = "nodeless-kubelet-ready"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client for %s: %w", k.cfg.Kubeconfig, err)
	}
	return kube.Wait(ctx, "Node "+k.cfg.NodeName, func(ctx context.Context) (bool, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, k.cfg.NodeName, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if err := k.describe(ctx, client, node); err != nil {
			return false, err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue, fmt.Errorf("node is not ready: %s", c.Message)
			}
		}
		return false, fmt.Errorf("node %s has no condition yet", node.Name)
	})
}

// describe writes into the Node what there is to know of this host besides what the kubelet says: the range of its Pods, which
// the controller-manager, elsewhere the one to do so, has been told to leave, and its annotations.
func (k *Kubelet) describe(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	change := map[string]any{}
	if node.Spec.PodCIDR == "" { // it can be set once
		change["spec"] = map[string]any{"podCIDR": k.cfg.PodCIDR, "podCIDRs": []netip.Prefix{k.cfg.PodCIDR}}
	}
	for key, value := range k.cfg.Annotations {
		if node.Annotations[key] != value {
			change["metadata"] = map[string]any{"annotations": k.cfg.Annotations}
		}
	}
	if len(change) == 0 {
		return nil
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode Node: %w", err)
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager}); err != nil {
		return fmt.Errorf("describe Node %s: %w", node.Name, err)
	}
	return nil
}

func portFree(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return &hint.Error{Op: "use port", On: addr, Err: err, Do: "stop the other kubelet or program that listens on it (`ss -ltnp`)"}
	}
	return l.Close()
}
