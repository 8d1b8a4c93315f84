package vm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jobs are one CronJob and four Jobs that end in different ways.
const jobs = `
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: main, image: IMAGE, command: [echo, tick]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: parallel}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "echo index $JOB_COMPLETION_INDEX"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "exit 1"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: fatal}
spec:
  backoffLimit: 6
  podFailurePolicy:
    rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "exit 42"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: late}
spec:
  activeDeadlineSeconds: 15
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: IMAGE, command: [sleep, "3600"]}]
`

// TestJobs: parallelism and index, the back-off limit, a failure policy, a deadline, and a CronJob that fires by itself.
func TestJobs(t *testing.T) {
	s := newSpace(t, 5*time.Minute)
	most := s.watchParallel("parallel")
	s.Apply(jobs)

	s.jobEnds("parallel", batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	if n := most(); n != 2 {
		t.Errorf("%d Pods of the parallel Job ran at once at most, want 2", n)
	}
	for i := range 3 {
		got := s.Kubectl("logs", "-l", fmt.Sprintf("batch.kubernetes.io/job-name=parallel,batch.kubernetes.io/job-completion-index=%d", i))
		if want := fmt.Sprintf("index %d", i); strings.TrimSpace(got) != want {
			t.Errorf("the log of index %d is %q, want %q", i, got, want)
		}
	}
	for _, tt := range []struct {
		name, reason string
		failed       int32
	}{
		{"hopeless", batchv1.JobReasonBackoffLimitExceeded, 2},
		{"fatal", batchv1.JobReasonPodFailurePolicy, 1},
		{"late", batchv1.JobReasonDeadlineExceeded, 1},
	} {
		if job := s.jobEnds(tt.name, batchv1.JobFailed, tt.reason); job.Status.Failed != tt.failed {
			t.Errorf("%d Pods of Job %s failed, want %d", job.Status.Failed, tt.name, tt.failed)
		}
	}
	s.Pods("batch.kubernetes.io/job-name=late", 0)
	s.cronJobFires("tick")
}

// watchParallel gives, when asked, how many Pods of a Job were active at once at most.
func (s *space) watchParallel(job string) func() int32 {
	s.T.Helper()
	w, err := s.Client.BatchV1().Jobs(s.Name).Watch(s.Ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + job})
	if err != nil {
		s.T.Fatal(err)
	}
	most := make(chan int32)
	go func() {
		var n int32
		for event := range w.ResultChan() {
			if j, ok := event.Object.(*batchv1.Job); ok {
				n = max(n, j.Status.Active)
			}
		}
		most <- n
	}()
	return func() int32 {
		w.Stop()
		return <-most
	}
}

// jobEnds waits until a Job has ended, as wanted and for that reason.
func (s *space) jobEnds(name string, as batchv1.JobConditionType, reason string) *batchv1.Job {
	s.T.Helper()
	var job *batchv1.Job
	s.Until(fmt.Sprintf("Job %s is %s: %s", name, as, reason), func() (ok bool, err error) {
		if job, err = s.Client.BatchV1().Jobs(s.Name).Get(s.Ctx, name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == as && c.Status == corev1.ConditionTrue && c.Reason == reason
		}), fmt.Errorf("its status is %+v", job.Status)
	})
	return job
}

// cronJobFires waits for the Job that the CronJob makes at the next full minute, and stops it from making more.
func (s *space) cronJobFires(name string) {
	s.T.Helper()
	var fired *batchv1.Job
	s.Until("CronJob "+name+" has fired and its Job is complete", func() (bool, error) {
		list, err := s.Client.BatchV1().Jobs(s.Name).List(s.Ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for i, job := range list.Items {
			if owner := metav1.GetControllerOf(&job); owner != nil && owner.Kind == "CronJob" && owner.Name == name && job.Status.Succeeded == 1 {
				fired = &list.Items[i]
				return true, nil
			}
		}
		return false, fmt.Errorf("there are %d Jobs, none of it complete", len(list.Items))
	})
	s.Kubectl("patch", "cronjob", name, "-p", `{"spec":{"suspend":true}}`)
	if at := fired.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; !strings.Contains(at, ":00Z") {
		t := s.T
		t.Errorf("the Job was due at %q, want a full minute", at)
	}
	if got := strings.TrimSpace(s.Kubectl("logs", "job/"+fired.Name)); got != "tick" {
		s.T.Errorf("the log of the CronJob's Job is %q, want tick", got)
	}
}
