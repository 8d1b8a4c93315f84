package eklet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

const (
	// nodePause is the time between two looks at Nodes.
	nodePause = 10 * time.Second
	// InsufficientIP is the reason of the condition NetworkUnavailable of a Node whose range is used up; AddressesFree that of others.
	InsufficientIP = "EKLetHasInsufficientSubnetIP"
	AddressesFree  = "EKLetHasSufficientSubnetIP"
	// taken are addresses of a range that no Pod can have: the network's, the gateway's and the broadcast's.
	taken = 3
)

// count keeps on each Node how many addresses its Pods have left, until ctx ends. A Node without any takes no Pods: the condition
// becomes a taint.
func (e *Eklet) count(ctx context.Context, pods corelisters.PodLister, nodes corelisters.NodeLister) {
	ticker := time.NewTicker(nodePause)
	defer ticker.Stop()
	for {
		if err := e.countOnce(ctx, pods, nodes); err != nil && ctx.Err() == nil {
			e.log.Warn("addresses not counted, will try again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (e *Eklet) countOnce(ctx context.Context, pods corelisters.PodLister, nodes corelisters.NodeLister) error {
	all, err := pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list Pods: %w", err)
	}
	used := map[string]int{}
	for _, pod := range all {
		if pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			used[pod.Spec.NodeName]++
		}
	}
	list, err := nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list Nodes: %w", err)
	}
	var errs []error
	for _, node := range list {
		size, ok := addresses(node.Spec.PodCIDR)
		if !ok {
			continue // it has none yet
		}
		free := max(0, size-used[node.Name])
		errs = append(errs, e.label(ctx, node, free), e.condition(ctx, node, free))
	}
	return errors.Join(errs...)
}

// addresses is how many Pods a range has room for.
func addresses(cidr string) (int, bool) {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return 0, false
	}
	bits := min(prefix.Addr().BitLen()-prefix.Bits(), 30)
	return max(0, 1<<bits-taken), true
}

func (e *Eklet) label(ctx context.Context, node *corev1.Node, free int) error {
	text := strconv.Itoa(free)
	if node.Labels[api.AvailableIPCountLabel] == text {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{api.AvailableIPCountLabel: text}}})
	if err != nil {
		return fmt.Errorf("encode label: %w", err)
	}
	if _, err := e.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label Node %s: %w", node.Name, err)
	}
	return nil
}

func (e *Eklet) condition(ctx context.Context, node *corev1.Node, free int) error {
	want := corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: AddressesFree, Message: "the range of addresses has room"}
	if free == 0 {
		want.Status, want.Reason = corev1.ConditionTrue, InsufficientIP
		want.Message = "no Pod can have an address of " + node.Spec.PodCIDR + " any more; delete Pods, or add a host"
	}
	for _, c := range node.Status.Conditions {
		if c.Type == want.Type && c.Status == want.Status && c.Reason == want.Reason {
			return nil
		}
	}
	now := metav1.NewTime(e.now())
	want.LastHeartbeatTime, want.LastTransitionTime = now, now
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{want}}})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	if _, err := e.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("set condition of Node %s: %w", node.Name, err)
	}
	return nil
}
