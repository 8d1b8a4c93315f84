package cronscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// memory is what is known of an object besides what the API says. It is ahead of the object's status, which lags and may fail to be
// written.
type memory struct {
	uid        types.UID
	said       string               // reason and message of the condition that was last told
	seen       int64                // generation of the object for which the target was found
	considered map[string]time.Time // up to when a cron's times have been looked at, by its name
	crons      map[string]CronStatus
	generation int64     // of the object when it was last dealt with
	acted      time.Time // when something was due last
	wrote      time.Time // when its status was written last
	urgent     bool      // the status says that something has been done that must not be done again
}

// reconcile acts on what has come due of an object, and brings its status up to date. It says after which time to look again; 0 is never.
func (c *controller) reconcile(ctx context.Context, name cache.ObjectName, now time.Time) (time.Duration, error) {
	object, ok, err := c.store.GetByKey(name.String())
	if err != nil {
		return 0, fmt.Errorf("find in cache: %w", err)
	}
	if !ok {
		c.forget(name)
		return 0, nil
	}
	raw, ok := object.(*unstructured.Unstructured)
	if !ok {
		return 0, fmt.Errorf("find in cache: unexpected %T", object)
	}
	var s Scaler
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, &s); err != nil {
		return 0, fmt.Errorf("read object: %w", err)
	}
	known, first := c.recall(name, &s)
	changed := first || known.generation != s.Generation
	if wait := pace - now.Sub(known.acted); !changed && wait > 0 {
		return wait, nil
	}
	known.generation = s.Generation
	status := Status{ObservedGeneration: s.Generation, Conditions: s.Status.Conditions}
	jobs, wrong := understand(s.Namespace, s.Spec, c.local, now)
	if over, err := c.isOver(&s); over || wrong != nil || err != nil {
		known.considered, known.crons = map[string]time.Time{}, map[string]CronStatus{}
		switch {
		case over:
			c.judge(raw, &status, known, now, TooMany, fmt.Sprintf("only the %d oldest objects of a namespace are dealt with; put their crons into one", mostObjects))
		case wrong != nil:
			c.judge(raw, &status, known, now, InvalidSpec, wrong.Error())
		}
		wait, werr := c.write(ctx, raw, known, s.Status, status, changed, now)
		if over && wait == 0 {
			wait = 10 * longestSleep // to see others go
		}
		return wait, errors.Join(err, werr)
	}
	known.follow(jobs, s.Status.Crons, first, now)
	reason, message, err := c.act(ctx, raw, &s, known, jobs, now)
	c.judge(raw, &status, known, now, reason, message)
	var again time.Duration
	status.Crons, again = known.report(jobs, now)
	if reason == TargetNotFound && (again == 0 || again > longestSleep) {
		again = longestSleep // to see it come
	}
	if !known.acted.IsZero() && again > 0 {
		again = max(again, pace-now.Sub(known.acted))
	}
	wait, werr := c.write(ctx, raw, known, s.Status, status, changed, now)
	if wait > 0 && (again == 0 || wait < again) {
		again = wait
	}
	return again, errors.Join(err, werr)
}

// isOver tells whether an object is one of too many of its namespace: the oldest count.
func (c *controller) isOver(s *Scaler) (bool, error) {
	all, err := c.store.ByIndex(cache.NamespaceIndex, s.Namespace)
	if err != nil {
		return false, fmt.Errorf("find in cache: %w", err)
	}
	older := 0
	for _, o := range all {
		other, err := meta.Accessor(o)
		if err != nil {
			return false, fmt.Errorf("find in cache: %w", err)
		}
		theirs := other.GetCreationTimestamp()
		if theirs.Before(&s.CreationTimestamp) || theirs.Equal(&s.CreationTimestamp) && other.GetName() < s.Name {
			older++
		}
	}
	return older >= mostObjects, nil
}

// recall finds what is known of an object, and tells whether that is nothing yet.
func (c *controller) recall(name cache.ObjectName, s *Scaler) (known *memory, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known = c.known[name]
	if known == nil || known.uid != s.UID {
		known, first = &memory{uid: s.UID, considered: map[string]time.Time{}, crons: map[string]CronStatus{}}, true
		if was := meta.FindStatusCondition(s.Status.Conditions, Valid); was != nil {
			known.said = was.Reason + ": " + was.Message
			if was.Status == metav1.ConditionTrue {
				known.seen = was.ObservedGeneration
			}
		}
		c.known[name] = known
	}
	return known, first
}

func (c *controller) forget(name cache.ObjectName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, name)
}

// follow takes up the crons that are new or have another schedule, from now on; at the first look at an object, from where its status says
// that this server has come before. It forgets those that are gone.
func (m *memory) follow(jobs []job, before []CronStatus, first bool, now time.Time) {
	considered, crons := map[string]time.Time{}, map[string]CronStatus{}
	for _, j := range jobs {
		status, from := CronStatus{Name: j.Name, Schedule: j.Schedule, TimeZone: j.TimeZone, Since: seconds(now)}, now
		same := func(s CronStatus) bool {
			return s.Name == j.Name && s.Schedule == j.Schedule && s.TimeZone == j.TimeZone
		}
		if was, ok := m.crons[j.Name]; ok && same(was) {
			status, from = was, m.considered[j.Name]
		}
		if first {
			for _, was := range before {
				if !same(was) {
					continue
				}
				status, from = was, was.Since.Time
				if was.LastScheduleTime != nil {
					from = was.LastScheduleTime.Time
				}
			}
		}
		considered[j.Name], crons[j.Name] = from, status
	}
	m.considered, m.crons = considered, crons
}

// done tells whether a cron that runs once has had its time.
func (m *memory) done(j job) bool { return j.RunOnce && m.crons[j.Name].LastScheduleTime != nil }

// act carries out what is due, and gives the reason and the message for the condition. The error is one that may pass.
func (c *controller) act(ctx context.Context, raw *unstructured.Unstructured, s *Scaler, known *memory, jobs []job, now time.Time) (reason, message string, err error) {
	object, err := targetOf(c.client, s.Namespace, s.Spec.ScaleTarget)
	if err != nil {
		return InvalidSpec, err.Error(), nil
	}
	missing := fmt.Sprintf("%s: there is none in namespace %s", object.what, s.Namespace)
	var open []job
	for _, j := range jobs {
		if !known.done(j) {
			open = append(open, j)
		}
	}
	ready := come(open, known.considered, now)
	for _, j := range jobs {
		known.considered[j.Name] = now
	}
	if len(ready) > 0 {
		known.acted = now
	}
	chosen := choose(ready, now)
	var failure error
	for i, d := range ready {
		status := known.crons[d.job.Name]
		last := seconds(d.at)
		status.LastScheduleTime = &last
		missed := d.before
		if now.Sub(missed) <= 2*pace { // it came while the object was left alone
			missed = time.Time{}
		}
		switch {
		case i == chosen:
			status.LastResult, status.LastMessage, failure = c.carryOut(ctx, raw, object, s.Spec.ScaleTarget.Name, d)
		case chosen >= 0 && now.Sub(d.at) <= catchUp:
			winner := ready[chosen]
			status.LastResult, status.LastMessage = Superseded, fmt.Sprintf("cron %s came at %s", winner.job.Name, winner.at.Format(time.RFC3339))
		default:
			missed = d.at
			status.LastResult, status.LastMessage = Missed, fmt.Sprintf("found due only at %s; a time is made up for within %s", now.Format(time.RFC3339), catchUp)
		}
		if !missed.IsZero() {
			at := seconds(missed)
			status.LastMissedTime = &at
			c.events.Eventf(raw, corev1.EventTypeWarning, MissedRun, "cron %s: nothing was done at %s, and maybe earlier times; the server did not run or was busy", d.job.Name, missed.Format(time.RFC3339))
		}
		known.crons[d.job.Name] = status
		known.urgent = known.urgent || d.job.RunOnce
	}
	if chosen >= 0 {
		if apierrors.IsNotFound(failure) {
			known.seen = 0
			return TargetNotFound, missing, nil
		}
		return Scheduled, "", nil
	}
	return known.look(ctx, object, s, missing)
}

// look tells whether the target is there, where that is not known. What cannot be found out is tried again.
func (m *memory) look(ctx context.Context, object target, s *Scaler, missing string) (reason, message string, err error) {
	if m.seen == s.Generation {
		return Scheduled, "", nil
	}
	there, err := object.exists(ctx, s.Spec.ScaleTarget.Name)
	if err != nil {
		if was := meta.FindStatusCondition(s.Status.Conditions, Valid); was != nil && was.Reason == TargetNotFound {
			return was.Reason, was.Message, err
		}
		return Scheduled, "", err
	}
	if !there {
		return TargetNotFound, missing, nil
	}
	m.seen = s.Generation
	return Scheduled, "", nil
}

// carryOut scales for a cron and tells of it.
func (c *controller) carryOut(ctx context.Context, raw *unstructured.Unstructured, object target, name string, d due) (result, message string, err error) {
	said, changed, err := object.scale(ctx, name, d.job.Cron)
	if err != nil {
		c.events.Eventf(raw, corev1.EventTypeWarning, ScaleFailed, "cron %s: %v", d.job.Name, err)
		c.log.Info("cron not carried out", "object", raw.GetNamespace()+"/"+raw.GetName(), "cron", d.job.Name, "error", err)
		return Failed, shorten(err.Error()), err
	}
	if changed {
		c.events.Eventf(raw, corev1.EventTypeNormal, Scaled, "cron %s: %s", d.job.Name, said)
	}
	return Succeeded, said, nil
}

// report is the status of the crons, with their next times, and how long to sleep until the first of these.
func (m *memory) report(jobs []job, now time.Time) ([]CronStatus, time.Duration) {
	var list []CronStatus
	var sleep time.Duration
	for _, j := range jobs {
		status := m.crons[j.Name]
		status.NextScheduleTime = nil
		if next := j.schedule.Next(now); !m.done(j) && !next.IsZero() {
			at := seconds(next)
			status.NextScheduleTime = &at
			if wait := min(next.Sub(now), longestSleep); sleep == 0 || wait < sleep {
				sleep = wait
			}
		}
		list = append(list, status)
	}
	return list, sleep
}

// judge sets the condition, and tells of a fault once.
func (c *controller) judge(raw *unstructured.Unstructured, status *Status, known *memory, now time.Time, reason, message string) {
	message = shorten(message)
	condition := metav1.Condition{
		Type: Valid, Status: metav1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: status.ObservedGeneration, LastTransitionTime: seconds(now),
	}
	if reason == Scheduled {
		condition.Status = metav1.ConditionTrue
	}
	conditions := append([]metav1.Condition(nil), status.Conditions...)
	meta.SetStatusCondition(&conditions, condition)
	status.Conditions = conditions
	said := reason + ": " + message
	if said != known.said && condition.Status == metav1.ConditionFalse {
		c.events.Event(raw, corev1.EventTypeWarning, reason, message)
	}
	known.said = said
}

// shorten fits a message into an event and a status.
func shorten(message string) string {
	const limit = 1000
	if len(message) > limit {
		return message[:limit] + "…"
	}
	return message
}

// write puts a status into the API if it is another than the one there. Unless the object has changed, or something in the status must not
// be lost, it says how long to wait with that instead when the last one was just written.
func (c *controller) write(ctx context.Context, raw *unstructured.Unstructured, known *memory, have, want Status, changed bool, now time.Time) (wait time.Duration, err error) {
	if equality.Semantic.DeepEqual(have, want) {
		return 0, nil
	}
	if wait := statusPace - now.Sub(known.wrote); wait > 0 && !changed && !known.urgent {
		return wait, nil
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&want)
	if err != nil {
		return 0, fmt.Errorf("encode status: %w", err)
	}
	object := raw.DeepCopy()
	object.Object["status"] = status
	_, err = c.client.Resource(resource()).Namespace(raw.GetNamespace()).UpdateStatus(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil // it was deleted meanwhile
	}
	if err == nil {
		known.wrote, known.urgent = now, false
	}
	return 0, err
}

// seconds is a time as the API keeps it.
func seconds(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }
