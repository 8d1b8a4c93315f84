package spot

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/nodeless/nodeless/pkg/api"
)

// TestGrace: neither a Pod's own grace nor one that it was deleted with keeps its capacity for longer than the notice.
func TestGrace(t *testing.T) {
	year, short := int64(365*24*3600), int64(5)
	for _, tt := range []struct {
		name    string
		own     *int64
		deleted time.Duration // when it is gone by itself; 0 for a Pod that was not deleted
		want    string
	}{
		{name: "a year of its own", own: &year, want: "2m0s"},
		{name: "less than the notice", own: &short, want: "its own"},
		{name: "deleted with a year", own: &short, deleted: 365 * 24 * time.Hour, want: "2m0s"},
		{name: "deleted with less than the notice", own: &short, deleted: time.Minute, want: "not deleted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := podOn("cheap", api.ChargeSpot, "500m")
				pod.Spec.TerminationGracePeriodSeconds = tt.own
				if tt.deleted > 0 {
					at := metav1.NewTime(time.Now().Add(tt.deleted))
					pod.DeletionTimestamp, pod.Finalizers = &at, []string{"example.org/stays"}
				}
				client := cluster(podOn("web", api.ChargePostPaid, "9"), pod)
				got := "not deleted"
				client.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
					got = "its own"
					if grace := a.(clienttesting.DeleteAction).GetDeleteOptions().GracePeriodSeconds; grace != nil {
						got = (time.Duration(*grace) * time.Second).String()
					}
					return tt.deleted > 0, &corev1.Pod{}, nil
				})
				running(t, client, func() {
					time.Sleep(3 * time.Minute)
					synctest.Wait()
				})
				if got != tt.want {
					t.Errorf("deleted with %s, want %s", got, tt.want)
				}
			})
		})
	}
	for notice, want := range map[time.Duration]time.Duration{0: 30 * time.Second, time.Minute: time.Minute} {
		if got := (Config{Notice: notice}).Grace(); got != want {
			t.Errorf("with a notice of %s the grace is %s, want %s", notice, got, want)
		}
	}
}
