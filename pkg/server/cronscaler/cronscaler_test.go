package cronscaler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/yaml"
)

// world is a cluster in which a controller runs. It lives in a bubble of synctest, where it is the year 2000.
type world struct {
	t      *testing.T
	client *dynamicfake.FakeDynamicClient
	events *record.FakeRecorder
	stop   func()

	mu       sync.Mutex
	replicas map[string]int64 // guarded by mu; of what has a scale: "deployments/web"
	sizes    []string         // guarded by mu; each size that was set, with its time
	failures []error          // guarded by mu; what the next updates of a scale say
}

func newWorld(t *testing.T, replicas map[string]int64, objects ...string) *world {
	t.Helper()
	w := &world{t: t, replicas: replicas, events: record.NewFakeRecorder(1000)}
	kinds := map[schema.GroupVersionResource]string{resource(): "HorizontalPodCronscalerList"}
	autoscalers, _ := placeOf(autoscalerKind)
	kinds[autoscalers] = "HorizontalPodAutoscalerList"
	var initial []runtime.Object
	for _, text := range objects {
		initial = append(initial, parsed(t, text))
	}
	w.client = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, initial...)
	w.client.PrependReactor("*", "deployments", w.scale)
	w.client.PrependReactor("*", "statefulsets", w.scale)
	return w
}

func parsed(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), o); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return o
}

// scale is the subresource of that name.
func (w *world) scale(action clienttesting.Action) (bool, runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kind := action.GetResource().Resource
	if action.GetSubresource() != "scale" || action.GetNamespace() != "shop" {
		return true, nil, fmt.Errorf("%s of %s/%s in %s", action.GetVerb(), kind, action.GetSubresource(), action.GetNamespace())
	}
	switch a := action.(type) {
	case clienttesting.GetAction:
		n, ok := w.replicas[kind+"/"+a.GetName()]
		if !ok {
			return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), a.GetName())
		}
		spec := map[string]any{}
		if n > 0 {
			spec["replicas"] = n // as the API, which leaves 0 out
		}
		return true, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": map[string]any{"name": a.GetName(), "namespace": "shop"}, "spec": spec,
		}}, nil
	case clienttesting.UpdateAction:
		if len(w.failures) > 0 {
			err := w.failures[0]
			w.failures = w.failures[1:]
			return true, nil, err
		}
		scale := a.GetObject().(*unstructured.Unstructured)
		n, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas")
		w.replicas[kind+"/"+scale.GetName()] = n
		w.sizes = append(w.sizes, fmt.Sprintf("%s %s/%s %d", time.Now().UTC().Format(time.TimeOnly), kind, scale.GetName(), n))
		return true, scale, err
	}
	return true, nil, fmt.Errorf("%s", action.GetVerb())
}

// start runs a controller until stop, or the end of the test.
func (w *world) start() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	c := newController(w.client, w.events, time.UTC, slog.New(slog.DiscardHandler))
	go func() { done <- c.run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the controller ended: %v", err)
		}
	}
	w.pass(500 * time.Millisecond) // client-go polls for the end of its first list
}

func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) apply(text string) {
	w.t.Helper()
	o := parsed(w.t, text)
	api := w.client.Resource(resource()).Namespace(o.GetNamespace())
	have, err := api.Get(w.t.Context(), o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(w.t.Context(), o, metav1.CreateOptions{})
	} else if err == nil {
		o.Object["status"] = have.Object["status"]
		_, err = api.Update(w.t.Context(), o, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) setSizes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sizes := w.sizes
	w.sizes = nil
	return sizes
}

func (w *world) said() []string {
	var all []string
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func (w *world) status(name string) Status {
	w.t.Helper()
	o, err := w.client.Resource(resource()).Namespace("shop").Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var s Scaler
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s); err != nil {
		w.t.Fatal(err)
	}
	return s.Status
}

// brief is a status in a line for the condition and one for each cron.
func brief(s Status) []string {
	var lines []string
	for _, c := range s.Conditions {
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message), ": "))
	}
	clock := func(t *metav1.Time) string {
		if t == nil {
			return "-"
		}
		return t.UTC().Format("02T15:04:05")
	}
	for _, c := range s.Crons {
		result := c.LastResult
		if result == "" {
			result = "-"
		}
		lines = append(lines, fmt.Sprintf("%s last %s %s missed %s next %s", c.Name, clock(c.LastScheduleTime), result, clock(c.LastMissedTime), clock(c.NextScheduleTime)))
	}
	return lines
}

func (w *world) expect(what string, got, want []string) {
	w.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// scalerOf is an object of generation n for the Deployment web.
func scalerOf(n int, crons ...string) string {
	return fmt.Sprintf(`
apiVersion: autoscaling.cloud.tencent.com/v1
kind: HorizontalPodCronscaler
metadata: {name: hpc, namespace: shop, uid: "1", generation: %d}
spec:
  scaleTarget: {apiVersion: apps/v1, kind: Deployment, name: web}
  crons: [%s]
`, n, strings.Join(crons, ", "))
}

const (
	up   = `{name: up, schedule: "0 0 8 * * *", targetSize: 5}`
	down = `{name: down, schedule: "30 0 20 * * *", targetSize: 0}`
)

func TestADeploymentIsScaledAtTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		w.apply(scalerOf(1, up, down))
		w.expect("status at first", brief(w.status("hpc")), []string{"Valid True Scheduled", "up last - - missed - next 01T08:00:00", "down last - - missed - next 01T20:00:30"})
		w.pass(36 * time.Hour)
		w.expect("sizes", w.setSizes(), []string{"08:00:00 deployments/web 5", "20:00:30 deployments/web 0", "08:00:00 deployments/web 5"})
		w.expect("events", w.said(), []string{
			"Normal Scaled cron up: Deployment web: from 1 to 5 replicas", "Normal Scaled cron down: Deployment web: from 5 to 0 replicas", "Normal Scaled cron up: Deployment web: from 0 to 5 replicas"})
		w.expect("status", brief(w.status("hpc")), []string{"Valid True Scheduled", "up last 02T08:00:00 Succeeded missed - next 03T08:00:00", "down last 01T20:00:30 Succeeded missed - next 02T20:00:30"})
		if got := w.status("hpc").ObservedGeneration; got != 1 {
			t.Errorf("generation %d was looked at", got)
		}
	})
}

func TestEverySecondIsNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		w.apply(scalerOf(1, `{name: odd, schedule: "1-59/2 * * * * *", targetSize: 1}`, `{name: even, schedule: "*/2 * * * * *", targetSize: 2}`))
		w.pass(30 * time.Second)
		w.expect("sizes", w.setSizes(), nil) // it is looked at in odd seconds: 1, 11, 21
		w.expect("status", brief(w.status("hpc")), []string{"Valid True Scheduled", "odd last - - missed - next 01T00:00:01", "even last - - missed - next 01T00:00:02"})
		w.pass(40 * time.Second)
		w.expect("status a minute later", brief(w.status("hpc"))[:1], []string{"Valid True Scheduled"})
	})
}

func TestAStatefulSetIsScaled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"statefulsets/web": 1})
		w.start()
		defer w.stop()
		w.apply(strings.Replace(scalerOf(1, up), "Deployment", "Statefulset", 1))
		w.pass(9 * time.Hour)
		w.expect("sizes", w.setSizes(), []string{"08:00:00 statefulsets/web 5"})
	})
}

func TestAnAutoscalersBoundsAreSet(t *testing.T) {
	const autoscaler = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec: {maxReplicas: 3, metrics: [{type: Pods}]}`
	tests := []struct{ name, cron, want, said string }{
		{name: "both", cron: `{name: c, schedule: "0 0 8 * * *", minSize: 2, maxSize: 9}`, want: "2-9", said: "from between 1 and 3 replicas to between 2 and 9"},
		{name: "a size is the lower bound", cron: `{name: c, schedule: "0 0 8 * * *", targetSize: 2}`, want: "2-3", said: "to between 2 and 3"},
		{name: "and raises the upper one", cron: `{name: c, schedule: "0 0 8 * * *", targetSize: 8}`, want: "8-8", said: "to between 8 and 8"},
		{name: "nothing to change", cron: `{name: c, schedule: "0 0 8 * * *", minSize: 1, maxSize: 3}`, want: "0-3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil, autoscaler)
				w.start()
				defer w.stop()
				w.apply(strings.Replace(scalerOf(1, tt.cron), "apiVersion: apps/v1, kind: Deployment", "apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler", 1))
				w.pass(9 * time.Hour)
				place, _ := placeOf(autoscalerKind)
				o, err := w.client.Resource(place).Namespace("shop").Get(t.Context(), "web", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				low, _, _ := unstructured.NestedInt64(o.Object, "spec", "minReplicas")
				high, _, _ := unstructured.NestedInt64(o.Object, "spec", "maxReplicas")
				kept, _, _ := unstructured.NestedSlice(o.Object, "spec", "metrics")
				if got := fmt.Sprintf("%d-%d", low, high); got != tt.want || len(kept) != 1 {
					t.Errorf("bounds are %s, want %s; %d metrics", got, tt.want, len(kept))
				}
				if said := strings.Join(w.said(), "\n"); !strings.Contains(said, tt.said) || tt.said == "" && said != "" {
					t.Errorf("said %q, want %q in it", said, tt.said)
				}
				w.expect("status", brief(w.status("hpc"))[1:], []string{"c last 01T08:00:00 Succeeded missed - next 02T08:00:00"})
			})
		})
	}
}

func TestExcludedDaysPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		// The 3rd is a Monday.
		w.apply(scalerOf(1, `{name: up, schedule: "0 0 8 * * *", targetSize: 5, excludeDates: ["* * * 1 1 *", "* * * * * 1"]}`, down))
		w.expect("status", brief(w.status("hpc"))[1:2], []string{"up last - - missed - next 02T08:00:00"})
		w.pass(60 * time.Hour)
		w.expect("sizes", w.setSizes(), []string{"20:00:30 deployments/web 0", "08:00:00 deployments/web 5", "20:00:30 deployments/web 0"})
		w.expect("status later", brief(w.status("hpc"))[1:2], []string{"up last 02T08:00:00 Succeeded missed - next 04T08:00:00"})
	})
}

func TestWhatRunsOnceRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		once := `{name: up, schedule: "0 0 8 * * *", targetSize: 5, runOnce: true}`
		w.apply(scalerOf(1, once))
		w.pass(36 * time.Hour)
		w.stop()
		w.start() // what it has done is in the status
		defer func() { w.stop() }()
		w.pass(36 * time.Hour)
		w.expect("sizes", w.setSizes(), []string{"08:00:00 deployments/web 5"})
		w.expect("status", brief(w.status("hpc"))[1:], []string{"up last 01T08:00:00 Succeeded missed - next -"})
		w.apply(scalerOf(2, strings.Replace(once, "0 0 8", "0 0 9", 1), down))
		w.pass(36 * time.Hour)
		// At 9 it has 5 already, and the next day is not one of its days.
		w.expect("sizes with another time", w.setSizes(), []string{"20:00:30 deployments/web 0"})
		w.expect("status with another time", brief(w.status("hpc"))[1:2], []string{"up last 04T09:00:00 Succeeded missed - next -"})
	})
}

func TestTimesThatCameWhileTheServerWasDown(t *testing.T) {
	tests := []struct {
		name          string
		crons         []string
		away          [2]time.Duration // since midnight
		sizes, status []string
		events        []string
	}{
		{name: "nothing came", crons: []string{up}, away: [2]time.Duration{time.Hour, 7 * time.Hour}, status: []string{"up last - - missed - next 01T08:00:00"}},
		{name: "one just now", crons: []string{up}, away: [2]time.Duration{time.Hour, 8*time.Hour + 9*time.Minute},
			sizes: []string{"08:09:00 deployments/web 5"}, status: []string{"up last 01T08:00:00 Succeeded missed - next 02T08:00:00"},
			events: []string{"Normal Scaled cron up: Deployment web: from 1 to 5 replicas"}},
		{name: "one too long ago", crons: []string{up}, away: [2]time.Duration{time.Hour, 8*time.Hour + 11*time.Minute},
			status: []string{"up last 01T08:00:00 Missed missed 01T08:00:00 next 02T08:00:00"},
			events: []string{"Warning MissedRun cron up: nothing was done at 2000-01-01T08:00:00Z, and maybe earlier times; the server did not run or was busy"}},
		{name: "of many the latest", crons: []string{`{name: often, schedule: "0 */5 * * * *", targetSize: 7}`}, away: [2]time.Duration{time.Hour + time.Second, 100*time.Hour + 2*time.Minute},
			sizes: []string{"04:02:00 deployments/web 7"}, status: []string{"often last 05T04:00:00 Succeeded missed 05T03:55:00 next 05T04:05:00"},
			events: []string{"Normal Scaled cron often: Deployment web: from 1 to 7 replicas", "Warning MissedRun cron often: nothing was done at 2000-01-05T03:55:00Z, and maybe earlier times; the server did not run or was busy"}},
		{name: "of two crons the latest", crons: []string{`{name: late, schedule: "0 5 8 * * *", targetSize: 2}`, up}, away: [2]time.Duration{time.Hour, 8*time.Hour + 6*time.Minute},
			sizes: []string{"08:06:00 deployments/web 2"}, status: []string{"late last 01T08:05:00 Succeeded missed - next 02T08:05:00", "up last 01T08:00:00 Superseded missed - next 02T08:00:00"},
			events: []string{"Normal Scaled cron late: Deployment web: from 1 to 2 replicas"}},
		{name: "one on an excluded day did not come", crons: []string{strings.Replace(up, "name", `excludeDates: ["* * * 1 1 *"], name`, 1)}, away: [2]time.Duration{time.Hour, 8*time.Hour + time.Minute},
			status: []string{"up last - - missed - next 02T08:00:00"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, map[string]int64{"deployments/web": 1})
				w.start()
				w.apply(scalerOf(1, tt.crons...))
				w.pass(tt.away[0])
				w.stop()
				w.mu.Lock()
				w.replicas["deployments/web"], w.sizes = 1, nil
				w.mu.Unlock()
				w.said()
				time.Sleep(tt.away[1] - tt.away[0])
				w.start()
				defer w.stop()
				w.expect("sizes", w.setSizes(), tt.sizes)
				w.expect("status", brief(w.status("hpc"))[1:], tt.status)
				w.expect("events", w.said(), tt.events)
			})
		})
	}
}

// TestAChangedScheduleHasNoPast since its author means what is to come.
func TestAChangedScheduleHasNoPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		w.pass(8*time.Hour + 5*time.Minute)
		w.apply(scalerOf(1, down))
		w.apply(scalerOf(2, down, up))                                         // a new cron
		w.apply(scalerOf(3, strings.Replace(down, "30 0 20", "0 4 8", 1), up)) // another time
		w.pass(time.Minute)
		w.expect("sizes", w.setSizes(), nil)
		w.apply(scalerOf(4, up))
		w.apply(scalerOf(5, up, down))
		w.expect("status", brief(w.status("hpc")), []string{"Valid True Scheduled", "up last - - missed - next 02T08:00:00", "down last - - missed - next 01T20:00:30"})
	})
}

func TestAFaultyObjectScalesNothingAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		w.apply(scalerOf(1, `{name: up, schedule: "0 8 * * *", targetSize: 5}`, down))
		const fault = `crons[0] "up": schedule "0 8 * * *": has 5 fields, want 6, the seconds first, such as "0 30 8 * * *"`
		w.pass(24 * time.Hour)
		w.expect("status", brief(w.status("hpc")), []string{"Valid False InvalidSpec: " + fault})
		w.stop()
		w.start() // told already
		defer func() { w.stop() }()
		w.expect("events", w.said(), []string{"Warning InvalidSpec " + fault})
		w.expect("sizes", w.setSizes(), nil)
		w.apply(scalerOf(2, up, down))
		w.pass(24 * time.Hour)
		w.expect("sizes when mended", w.setSizes(), []string{"08:00:00 deployments/web 5", "20:00:30 deployments/web 0"})
		w.expect("status when mended", brief(w.status("hpc"))[:1], []string{"Valid True Scheduled"})
		w.said()
		w.apply(scalerOf(3, `{name: up, schedule: "0 8 * * *", targetSize: 5}`))
		w.expect("events of the fault made again", w.said(), []string{"Warning InvalidSpec " + fault})
	})
}

func TestATargetThatIsMissingIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{})
		w.start()
		defer w.stop()
		w.apply(scalerOf(1, up))
		const fault = "TargetNotFound: Deployment web: there is none in namespace shop"
		w.expect("status", brief(w.status("hpc"))[:1], []string{"Valid False " + fault})
		w.pass(9 * time.Hour)
		w.expect("status after its time", brief(w.status("hpc")), []string{"Valid False " + fault, "up last 01T08:00:00 Failed missed - next 02T08:00:00"})
		w.expect("events", w.said(), []string{"Warning TargetNotFound Deployment web: there is none in namespace shop", `Warning ScaleFailed cron up: scale Deployment web: deployments.apps "web" not found`})
		w.mu.Lock()
		w.replicas["deployments/web"] = 2
		w.mu.Unlock()
		w.pass(2 * time.Minute)
		w.expect("status when it is there", brief(w.status("hpc"))[:1], []string{"Valid True Scheduled"})
		w.pass(24 * time.Hour)
		w.expect("sizes", w.setSizes(), []string{"08:00:00 deployments/web 5"})
	})
}

func TestWhatMayPassIsTriedAgain(t *testing.T) {
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	conflict := apierrors.NewConflict(deployments, "web", fmt.Errorf("changed"))
	denied := apierrors.NewForbidden(deployments, "web", fmt.Errorf("not by you"))
	tests := []struct {
		name     string
		failures []error
		sizes    []string
		status   string
		message  string
	}{
		{name: "a conflict", failures: []error{conflict, conflict}, sizes: []string{"08:00:00 deployments/web 5"}, status: "up last 01T08:00:00 Succeeded missed - next 02T08:00:00", message: "from 1 to 5"},
		{name: "what is denied stays so", failures: []error{denied}, status: "up last 01T08:00:00 Failed missed - next 02T08:00:00", message: "not by you"},
		{name: "a conflict that does not end", failures: []error{conflict, conflict, conflict, conflict, conflict, conflict, conflict}, status: "up last 01T08:00:00 Failed missed - next 02T08:00:00", message: "changed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, map[string]int64{"deployments/web": 1})
				w.failures = tt.failures
				w.start()
				defer w.stop()
				w.apply(scalerOf(1, up))
				w.pass(9 * time.Hour)
				w.expect("sizes", w.setSizes(), tt.sizes)
				status := w.status("hpc")
				w.expect("status", brief(status), []string{"Valid True Scheduled", tt.status})
				if got := status.Crons[0].LastMessage; !strings.Contains(got, tt.message) {
					t.Errorf("message %q, want %q in it", got, tt.message)
				}
			})
		})
	}
}

func TestADeletedObjectIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		w.apply(scalerOf(1, up))
		if err := w.client.Resource(resource()).Namespace("shop").Delete(t.Context(), "hpc", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.pass(24 * time.Hour)
		w.expect("sizes", w.setSizes(), nil)
	})
}

func TestAnotherNamespaceIsOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]int64{"deployments/web": 1})
		w.start()
		defer w.stop()
		w.apply(strings.Replace(scalerOf(1, up), "name: web", "name: web, namespace: bank", 1))
		w.pass(24 * time.Hour)
		w.expect("status", brief(w.status("hpc")), []string{`Valid False InvalidSpec: scaleTarget.namespace "bank": only what is in the object's own namespace, "shop", can be scaled`})
		w.expect("sizes", w.setSizes(), nil)
	})
}

func TestValidateNamesEveryFault(t *testing.T) {
	err := Config{}.Validate()
	for _, want := range []string{"no server", "no authority", "no certificate", "no key", "no time zone"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}
