package vm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeless/nodeless/tests/testcluster"
)

const statefulSet = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: IMAGE
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: quorum}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: db}}
`

// TestStatefulSetAndItsBudget: names, order and addresses of a StatefulSet's Pods, and evictions that a
// PodDisruptionBudget refuses and then allows.
func TestStatefulSetAndItsBudget(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	s.Apply(statefulSet)
	s.Pods("app=db", 2)
	first, second := s.Ready("db-0"), s.Ready("db-1")
	if ready := readySince(first); second.CreationTimestamp.Time.Before(ready.Truncate(time.Second)) {
		t.Errorf("db-1 was made at %s, before db-0 was ready at %s", second.CreationTimestamp, ready)
	}
	s.resolves("db-1", "db-0.db", first.Status.PodIP)
	s.resolves("db-0", "db-1.db."+s.Name+".svc.cluster.local", second.Status.PodIP)
	if got := s.MustExec("db-0", "hostname"); got != "db-0" {
		t.Errorf("the host name of db-0 is %q", got)
	}

	s.Until("the budget has been counted", func() (bool, error) {
		b, err := s.Client.PolicyV1().PodDisruptionBudgets(s.Name).Get(s.Ctx, "quorum", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return b.Status.CurrentHealthy == 2, fmt.Errorf("%d healthy", b.Status.CurrentHealthy)
	})
	err := s.evict("db-0")
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(fmt.Sprint(details(err)), "quorum") {
		t.Errorf("eviction against the budget: %v, details %v; want 429 that names quorum", err, details(err))
	}
	s.Kubectl("patch", "pdb", "quorum", "-p", `{"spec":{"minAvailable":1}}`)
	s.Until("the eviction is allowed", func() (bool, error) {
		err := s.evict("db-0")
		return err == nil, err
	})
	again := s.Pod("db-0", "is back in a new microVM", func(pod *corev1.Pod) bool { return pod.UID != first.UID && testcluster.IsReady(pod) })
	s.resolves("db-1", "db-0.db", again.Status.PodIP)
	if now := s.Ready("db-1"); now.UID != second.UID {
		t.Error("db-1 was replaced too")
	}

	s.Kubectl("scale", "statefulset/db", "--replicas=1")
	if left := s.Pods("app=db", 1); left[0].UID != again.UID {
		t.Errorf("%s is left, want db-0", left[0].Name)
	}
}

// readySince is when the Pod became ready.
func readySince(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// resolves waits until a name means exactly this address inside a Pod: an answer may be a few seconds old.
func (s *space) resolves(pod, name, address string) {
	s.T.Helper()
	s.Until(name+" is "+address, func() (bool, error) {
		out, _ := s.Exec(pod, "/hello", "resolve", name)
		return strings.TrimSpace(out) == address, fmt.Errorf("it is %q", out)
	})
}

func (s *space) evict(pod string) error {
	return s.Client.PolicyV1().Evictions(s.Name).Evict(s.Ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: s.Name}})
}

// details are the causes in an error of the API, which name what was in the way.
func details(err error) []metav1.StatusCause {
	if status, ok := err.(apierrors.APIStatus); ok && status.Status().Details != nil {
		return status.Status().Details.Causes
	}
	return nil
}

const preemption = `
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: vm-test-low}
value: 1
description: a test's
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: vm-test-patient}
value: 1000
preemptionPolicy: Never
description: a test's
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: vm-test-high}
value: 1000
description: a test's
`

// large is a Pod that requests memory, has a priority and says goodbye.
const large = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  priorityClassName: vm-test-%[1]s
  terminationGracePeriodSeconds: 60
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'echo goodbye; exit 0' TERM; echo hello; while :; do sleep 1 & wait; done"]
    resources: {requests: {memory: "%d"}}
`

// TestPreemption: on a full Node a Pod of higher priority takes the place of a lower one, which is asked to go.
func TestPreemption(t *testing.T) {
	s := newQuietSpace(t, 5*time.Minute)
	s.Apply(preemption)
	t.Cleanup(func() {
		for _, name := range []string{"low", "patient", "high"} {
			s.Host.Kubectl(s.Ctx, "delete", "priorityclass", "vm-test-"+name) //nolint:errcheck // best effort
		}
	})
	memory := s.allocatable(corev1.ResourceMemory).Value() / 10 * 6 // two of these never fit
	s.Apply(fmt.Sprintf(large, "low", memory))
	low := s.Ready("low")
	logs := s.follow("low")
	logs.waitFor("hello")

	s.Apply(fmt.Sprintf(large, "patient", memory))
	s.Pod("patient", "waits", func(pod *corev1.Pod) bool {
		return condition(pod, corev1.PodScheduled).Reason == corev1.PodReasonUnschedulable
	})
	if now := s.Ready("low"); now.DeletionTimestamp != nil {
		t.Error("a Pod that must not preempt did")
	}
	s.Kubectl("delete", "pod", "patient")

	s.Apply(fmt.Sprintf(large, "high", memory))
	s.Ready("high")
	if rest := logs.rest(); !strings.Contains(rest, "goodbye") {
		t.Errorf("the preempted Pod was not asked to go; its log ends with %q", rest)
	}
	events := s.events(low.UID)
	if !strings.Contains(events, "Preempted") {
		t.Errorf("no event says that the Pod was preempted:\n%s", events)
	}
	if _, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, "low", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the preempted Pod: %v, want it gone", err)
	}
}

// allocatable is how much of a resource the Node has for Pods.
func (s *space) allocatable(name corev1.ResourceName) *resource.Quantity {
	s.T.Helper()
	nodes, err := s.Client.CoreV1().Nodes().List(s.Ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 1 {
		s.T.Fatalf("%d nodes, %v", len(nodes.Items), err)
	}
	q := nodes.Items[0].Status.Allocatable[name]
	return &q
}

// condition is the Pod's condition of a type; empty if it has none.
func condition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// events lists reason and message of every event about an object.
func (s *space) events(uid types.UID) string {
	s.T.Helper()
	return s.Kubectl("get", "events", "--field-selector=involvedObject.uid="+string(uid),
		"-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}
