package testcluster

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pod waits until the named Pod is as wanted.
func (s *Space) Pod(name, what string, want func(*corev1.Pod) bool) *corev1.Pod {
	s.T.Helper()
	var got *corev1.Pod
	s.Until("Pod "+name+" "+what, func() (bool, error) {
		pod, err := s.Client.CoreV1().Pods(s.Name).Get(s.Ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		got = pod
		return want(pod), fmt.Errorf("it is %s, containers %v", pod.Status.Phase, States(pod))
	})
	return got
}

// Ready waits until the named Pod is Ready.
func (s *Space) Ready(name string) *corev1.Pod {
	s.T.Helper()
	return s.Pod(name, "is ready", IsReady)
}

// Pods waits until exactly n Pods with the label are ready and no other is there.
func (s *Space) Pods(label string, n int) []corev1.Pod {
	s.T.Helper()
	var got []corev1.Pod
	s.Until(fmt.Sprintf("%d Pods with %q are ready", n, label), func() (bool, error) {
		list, err := s.Client.CoreV1().Pods(s.Name).List(s.Ctx, metav1.ListOptions{LabelSelector: label})
		if err != nil {
			return false, err
		}
		ready := 0
		for i := range list.Items {
			if IsReady(&list.Items[i]) && list.Items[i].DeletionTimestamp == nil {
				ready++
			}
		}
		got = list.Items
		return ready == n && len(list.Items) == n, fmt.Errorf("there are %d, %d ready", len(list.Items), ready)
	})
	return got
}

// IsReady reads the condition Ready.
func IsReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// States is a short account of a Pod's containers for messages.
func States(pod *corev1.Pod) []string {
	var out []string
	for _, c := range pod.Status.ContainerStatuses {
		switch st := c.State; {
		case st.Running != nil:
			out = append(out, fmt.Sprintf("%s running, %d restarts", c.Name, c.RestartCount))
		case st.Terminated != nil:
			out = append(out, fmt.Sprintf("%s ended with %d (%s)", c.Name, st.Terminated.ExitCode, st.Terminated.Reason))
		case st.Waiting != nil:
			out = append(out, fmt.Sprintf("%s waits: %s %s", c.Name, st.Waiting.Reason, st.Waiting.Message))
		}
	}
	return out
}

// Sleeper is a Pod that does nothing until it is told to go. extra is appended to its container.
func Sleeper(name, extra string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
%s`, name, extra)
}
