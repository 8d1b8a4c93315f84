package spot

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
)

// Interruption is the reason of events about spot Pods that go; Kept is that of those that were told to and may stay.
const (
	Interruption = "SpotPodInterruption"
	Kept         = "SpotPodKept"
)

// tell gives a Pod notice.
func (s *Spot) tell(ctx context.Context, pod *corev1.Pod, at time.Time) error {
	at = at.UTC().Truncate(time.Second)
	text := at.Format(time.RFC3339)
	if err := s.annotate(ctx, pod, &text); err != nil {
		return err
	}
	s.log.Info("spot Pod given notice", "pod", pod.Namespace+"/"+pod.Name, "until", text)
	return s.event(ctx, pod, "told-"+fmt.Sprint(at.Unix()), corev1.EventTypeWarning, Interruption,
		fmt.Sprintf("The spot Pod will be killed and re-created at %s: ordinary Pods need its capacity", text))
}

// keep takes a notice back.
func (s *Spot) keep(ctx context.Context, pod *corev1.Pod) error {
	if err := s.annotate(ctx, pod, nil); err != nil {
		return err
	}
	return s.event(ctx, pod, "kept-"+fmt.Sprint(s.now().Unix()), corev1.EventTypeNormal, Kept, "The spot Pod stays: its capacity is not needed any more")
}

// end deletes a Pod whose notice is over. Budgets for disruptions were honoured until then, by the choice of who was told.
func (s *Spot) end(ctx context.Context, pod *corev1.Pod) error {
	s.log.Info("spot Pod ended", "pod", pod.Namespace+"/"+pod.Name)
	err := s.event(ctx, pod, "ended", corev1.EventTypeWarning, Interruption, "The spot Pod is killed and re-created: its notice is over")
	if err != nil {
		return err
	}
	return s.remove(ctx, pod)
}

// hurry shortens the end of a Pod that was deleted with a longer grace than a spot Pod has: it would keep its capacity for as long.
func (s *Spot) hurry(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp == nil || !pod.DeletionTimestamp.After(s.now().Add(s.cfg.Grace())) {
		return nil
	}
	s.log.Info("end of a spot Pod shortened", "pod", pod.Namespace+"/"+pod.Name, "was", pod.DeletionTimestamp.Time)
	return s.remove(ctx, pod)
}

// remove deletes a Pod, with its own grace if that is one that a spot Pod may have.
func (s *Spot) remove(ctx context.Context, pod *corev1.Pod) error {
	uid := pod.UID
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if most, own := int64(s.cfg.Grace()/time.Second), pod.Spec.TerminationGracePeriodSeconds; pod.DeletionTimestamp != nil || own != nil && *own > most {
		options.GracePeriodSeconds = &most
	}
	err := s.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("end spot Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// pushedOut tells of a Pod that the scheduler has pushed out for another one.
func (s *Spot) pushedOut(ctx context.Context, pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler {
			return s.event(ctx, pod, "pushed-out", corev1.EventTypeWarning, Interruption, "The spot Pod is killed and re-created, without notice: an ordinary Pod found no other room")
		}
	}
	return nil
}

// annotate sets or removes the time at which a Pod goes.
func (s *Spot) annotate(ctx context.Context, pod *corev1.Pod, at *string) error {
	return kube.Annotate(ctx, s.client, pod, map[string]*string{api.InterruptionAt: at})
}

// event is written once for each Pod and mark.
func (s *Spot) event(ctx context.Context, pod *corev1.Pod, mark, kind, reason, message string) error {
	return s.notes.Tell(ctx, s.client, pod, kube.Note{Mark: "spot-" + mark, Type: kind, Reason: reason, Message: message}, s.now())
}
