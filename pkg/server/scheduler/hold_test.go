package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// host has room for two Pods of 2C4Gi.
func host(name, kind string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{api.CPUTypeLabel: kind}},
		Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("10Gi"), "pods": resource.MustParse("99")}},
	}
}

// pod is one of a spec, as admission leaves it.
func pod(namespace, size, node string) *corev1.Pod {
	s, err := podsize.ParseSize(size, "intel")
	if err != nil {
		panic(err)
	}
	asks := corev1.ResourceList{"cpu": *resource.NewMilliQuantity(s.CPU, resource.DecimalSI), "memory": *resource.NewQuantity(s.Memory, resource.BinarySI)}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "p" + node, UID: types.UID(namespace + size + node),
			Annotations: map[string]string{api.Spec: size, api.SpecType: "intel", api.ChargeType: api.ChargePostPaid},
		},
		Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "main"}}, Resources: &corev1.ResourceRequirements{Requests: asks},
			Overhead: corev1.ResourceList{"memory": resource.MustParse("448Mi")},
		},
	}
}

func reserved(size, kind, namespace, node string) bill.Reservation {
	s, err := podsize.ParseSize(size, kind)
	if err != nil {
		panic(err)
	}
	return bill.Reservation{ID: "eksri-" + namespace + node, Size: s, Namespace: namespace, Node: node, Until: time.Now().Add(time.Hour)}
}

func spotty(p *corev1.Pod) *corev1.Pod {
	p.Annotations[api.ChargeType] = api.ChargeSpot
	return p
}

func TestHoldCapacity(t *testing.T) {
	one := reserved("2C4Gi", bill.Common, "shop", "")
	full := []*corev1.Pod{pod("other", "2C4Gi", "a")} // and one place is left
	cordoned := host("b", "intel")
	cordoned.Spec.Unschedulable = true
	for _, tt := range []struct {
		name    string
		held    []bill.Reservation
		running []*corev1.Pod
		more    *corev1.Node // beside the host that is asked for
		pod     *corev1.Pod
		refused bool
	}{
		{name: "nothing is reserved", running: full, pod: pod("other", "2C4Gi", "")},
		{name: "there is room beside the place", held: []bill.Reservation{one}, pod: pod("other", "2C4Gi", "")},
		{name: "the place is the last room", held: []bill.Reservation{one}, running: full, pod: pod("other", "2C4Gi", ""), refused: true},
		{name: "a small Pod takes a part of the place", held: []bill.Reservation{one}, running: full, pod: pod("other", "0.25C0.5Gi", ""), refused: true},
		{name: "the Pod that the place is for", held: []bill.Reservation{one}, running: full, pod: pod("shop", "2C4Gi", "")},
		{name: "its namespace, another spec", held: []bill.Reservation{one}, running: full, pod: pod("shop", "1C2Gi", ""), refused: true},
		{name: "a spot Pod of the namespace", held: []bill.Reservation{one}, running: full, pod: spotty(pod("shop", "2C4Gi", "")), refused: true},
		{name: "one Pod of the namespace has the place", held: []bill.Reservation{one}, running: []*corev1.Pod{pod("shop", "2C4Gi", "a")}, pod: pod("other", "2C4Gi", "")},
		{name: "two places, one of them used", held: []bill.Reservation{one, one}, running: []*corev1.Pod{pod("shop", "2C4Gi", "a")}, pod: pod("other", "2C4Gi", ""), refused: true},
		{name: "another host has room for the place", held: []bill.Reservation{one}, running: full, more: host("b", "intel"), pod: pod("other", "2C4Gi", "")},
		{name: "another host takes no Pods", held: []bill.Reservation{one}, running: full, more: cordoned, pod: pod("other", "2C4Gi", ""), refused: true},
		{name: "the place is on another host", held: []bill.Reservation{reserved("2C4Gi", bill.Common, "shop", "b")}, running: full, more: host("b", "intel"), pod: pod("other", "2C4Gi", "")},
		{name: "the place is on this host", held: []bill.Reservation{reserved("2C4Gi", bill.Common, "shop", "a")}, running: full, more: host("b", "intel"), pod: pod("other", "2C4Gi", ""), refused: true},
		{name: "of another type of CPU than the host's", held: []bill.Reservation{reserved("2C4Gi", "amd", "", "")}, running: full, pod: pod("other", "2C4Gi", "")},
		{name: "the host never had room for it", held: []bill.Reservation{reserved("8C16Gi", bill.Common, "shop", "")}, running: full, pod: pod("other", "2C4Gi", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := host("a", "intel")
			nodes := []*corev1.Node{asked}
			if tt.more != nil {
				nodes = append(nodes, tt.more)
			}
			snapshot := cache.NewSnapshot(tt.running, nodes)
			h := &hold{func(context.Context) ([]bill.Reservation, error) { return tt.held, nil }, snapshot, slog.New(slog.DiscardHandler)}
			state := framework.NewCycleState()
			if _, status := h.PreFilter(t.Context(), state, tt.pod, nil); status.IsSkip() {
				if tt.refused {
					t.Error("there is nothing to keep")
				}
				return
			} else if !status.IsSuccess() {
				t.Fatal(status)
			}
			info, err := snapshot.NodeInfos().Get("a")
			if err != nil {
				t.Fatal(err)
			}
			status := h.Filter(t.Context(), state, tt.pod, info)
			if status.IsSuccess() == tt.refused {
				t.Errorf("got %v, want refused: %v", status, tt.refused)
			}
			if tt.refused && status.Message() != "1 place(s) kept free for reservations" {
				t.Errorf("it is said: %s", status.Message())
			}
		})
	}
}

// The scheduler does its work when the journal cannot be read.
func TestPlacesThatCannotBeRead(t *testing.T) {
	h := &hold{func(context.Context) ([]bill.Reservation, error) { return nil, errors.New("disk I/O error") }, cache.NewSnapshot(nil, nil), slog.New(slog.DiscardHandler)}
	if _, status := h.PreFilter(t.Context(), framework.NewCycleState(), pod("shop", "2C4Gi", ""), nil); !status.IsSkip() {
		t.Errorf("got %v, want to be skipped", status)
	}
}
