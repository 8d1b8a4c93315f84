package cronscaler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func size(n int32) *int32 { return &n }

func TestUnderstand(t *testing.T) {
	web := Target{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	auto := Target{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler", Name: "web"}
	now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	tests := []struct {
		name   string
		target Target
		crons  []Cron
		want   string
	}{
		{name: "a Deployment", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(0)}}},
		{name: "the cloud's spelling of StatefulSet, with its namespace", target: Target{APIVersion: "apps/v1", Kind: "Statefulset", Name: "db", Namespace: "shop"},
			crons: []Cron{{Name: "a", Schedule: "0 */2 * * * *", TargetSize: size(1)}}},
		{name: "an autoscaler's bounds and its size", target: auto,
			crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", MinSize: size(2), MaxSize: size(6)}, {Name: "b", Schedule: "0 0 9 * * *", TargetSize: size(1)}}},
		{name: "five fields", target: web, crons: []Cron{{Name: "up", Schedule: "0 8 * * *", TargetSize: size(1)}},
			want: `crons[0] "up": schedule "0 8 * * *": has 5 fields, want 6, the seconds first, such as "0 30 8 * * *"`},
		{name: "no such kind", target: Target{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "web"}, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(1)}},
			want: `scaleTarget.kind "DaemonSet": want Deployment, StatefulSet or HorizontalPodAutoscaler`},
		{name: "a kind of another group", target: Target{APIVersion: "extensions/v1beta1", Kind: "Deployment", Name: "web"}, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(1)}},
			want: `scaleTarget.apiVersion "extensions/v1beta1": a Deployment is of apps/v1`},
		{name: "somebody else's namespace, and no name", target: Target{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "bank"}, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(1)}},
			want: `scaleTarget.name: want the name of what is to be scaled; scaleTarget.namespace "bank": only what is in the object's own namespace, "shop", can be scaled`},
		{name: "min above max", target: auto, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", MinSize: size(6), MaxSize: size(2)}},
			want: `crons[0] "a": minSize 6, maxSize 2: want maxSize above 0 and no less than minSize`},
		{name: "negative", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(-1)}}, want: `crons[0] "a": size -1: want no less than 0`},
		{name: "half of the bounds", target: auto, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", MaxSize: size(2)}}, want: `crons[0] "a": want targetSize, or both of minSize and maxSize`},
		{name: "bounds for a Deployment", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", MinSize: size(1), MaxSize: size(2)}},
			want: `crons[0] "a": targetSize is missing; minSize and maxSize are for a HorizontalPodAutoscaler`},
		{name: "too many sizes", target: auto, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(1), MinSize: size(1), MaxSize: size(2)}},
			want: `crons[0] "a": targetSize goes without minSize and maxSize`},
		{name: "a day that cannot be read", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", ExcludeDates: []string{"15 11"}, TargetSize: size(1)}},
			want: `crons[0] "a": excludeDates[0] "15 11": has 2 fields, want 6, the seconds first, such as "0 30 8 * * *"`},
		{name: "no such zone", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *", TimeZone: "Mars", TargetSize: size(1)}},
			want: `crons[0] "a": timeZone "Mars": want the name of a time zone, such as "Asia/Shanghai" or "UTC"`},
		{name: "no such day", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 31 2 *", TargetSize: size(1)}},
			want: `crons[0] "a": schedule "0 0 8 31 2 *": there is no such time, or only on days that excludeDates has`},
		{name: "two faults in two crons, and a name twice", target: web, crons: []Cron{{Name: "a", Schedule: "0 0 8 * * *"}, {Name: "a", Schedule: "0 0 8 * * *", TargetSize: size(1)}},
			want: `crons[0] "a": targetSize is missing; minSize and maxSize are for a HorizontalPodAutoscaler; crons[1] "a": name: want one that no other cron of this object has`},
		{name: "no crons", target: web, want: "crons: there are none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			jobs, err := understand("shop", Spec{ScaleTarget: tt.target, Crons: tt.crons}, time.UTC, now)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("fault (-want +got):\n%s", diff)
			}
			if tt.want == "" && len(jobs) != len(tt.crons) {
				t.Errorf("%d of %d crons understood", len(jobs), len(tt.crons))
			}
		})
	}
}

func TestChoose(t *testing.T) {
	now := time.Date(2026, 3, 1, 8, 9, 0, 0, time.UTC)
	from := now.Add(-24 * time.Hour)
	tests := []struct {
		name      string
		schedules []string
		due       []string // time, and the one before if there is one
		chosen    int
	}{
		{name: "nothing came", schedules: []string{"0 0 8 2 3 *"}, chosen: -1},
		{name: "one", schedules: []string{"0 5 8 * * *"}, due: []string{"08:05:00"}},
		{name: "the latest of two", schedules: []string{"0 5 8 * * *", "0 3 8 * * *"}, due: []string{"08:05:00", "08:03:00"}},
		{name: "of two at one time the last in the list", schedules: []string{"0 5 8 * * *", "0 5 8 * * *"}, due: []string{"08:05:00", "08:05:00"}, chosen: 1},
		{name: "of one cron the latest", schedules: []string{"0 */2 * * * *"}, due: []string{"08:08:00 08:06:00"}},
		{name: "ten minutes ago", schedules: []string{"0 59 7 * * *"}, due: []string{"07:59:00"}},
		{name: "longer ago", schedules: []string{"59 58 7 * * *"}, due: []string{"07:58:59"}, chosen: -1},
		{name: "longer ago, and not", schedules: []string{"0 0 7 * * *", "0 0 8 * * *"}, due: []string{"07:00:00", "08:00:00"}, chosen: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var crons []Cron
			considered := map[string]time.Time{}
			for i, s := range tt.schedules {
				crons = append(crons, Cron{Name: string(rune('a' + i)), Schedule: s, TargetSize: size(1)})
				considered[crons[i].Name] = from
			}
			jobs, err := understand("shop", Spec{ScaleTarget: Target{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, Crons: crons}, time.UTC, now)
			if err != nil {
				t.Fatal(err)
			}
			list := come(jobs, considered, now)
			var got []string
			for _, d := range list {
				text := d.at.Format(time.TimeOnly)
				if !d.before.IsZero() {
					text += " " + d.before.Format(time.TimeOnly)
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tt.due, got); diff != "" {
				t.Errorf("due (-want +got):\n%s", diff)
			}
			if chosen := choose(list, now); chosen != tt.chosen {
				t.Errorf("chosen is %d, want %d", chosen, tt.chosen)
			}
		})
	}
}
