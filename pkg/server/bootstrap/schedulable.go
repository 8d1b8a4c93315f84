package bootstrap

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// patience is how long SchedulableNode.Ready waits. A host that cannot run Pods must still let its operator see why,
// with a scheduler that says so at each Pod.
const patience = 60 * time.Second

// SchedulableNode is a component that does nothing and is ready when Pods can be scheduled to some node. The scheduler comes
// after it: one that starts earlier finds the first Pods unschedulable and makes them wait for another try.
type SchedulableNode struct {
	access kube.Access
	log    *slog.Logger
}

var (
	_ run.Component = (*SchedulableNode)(nil)
	_ run.Readier   = (*SchedulableNode)(nil)
)

// NewSchedulableNode gives the component.
func NewSchedulableNode(access kube.Access, log *slog.Logger) *SchedulableNode {
	return &SchedulableNode{access: access, log: log}
}

// Name is "schedulable-node".
func (n *SchedulableNode) Name() string { return "schedulable-node" }

// Run waits for the end.
func (n *SchedulableNode) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready waits until a node takes Pods, but not for ever.
func (n *SchedulableNode) Ready(ctx context.Context) error {
	client, err := n.access.Client("nodeless-schedulable-node")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = kube.Wait(limited, "a node that takes Pods", func(ctx context.Context) (bool, error) {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for i := range nodes.Items {
			if Schedulable(&nodes.Items[i]) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil && ctx.Err() == nil {
		n.log.Warn("no node takes Pods yet", "waited", patience)
		return nil
	}
	return err
}

// Schedulable says whether Pods without tolerations can be put on node.
func Schedulable(node *corev1.Node) bool {
	if node.Spec.Unschedulable {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule {
			return false
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
