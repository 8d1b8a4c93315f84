package cronscaler

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/server/cronscaler/schedule"
)

// catchUp is how long after its time a run is still made up for, when the server did not run or was busy.
const catchUp = 10 * time.Minute

// job is an entry that has been understood.
type job struct {
	Cron
	schedule schedule.Schedule
}

// understand checks what the API's schema cannot, and what it can once more: an object may be older than the schema. The error has every
// fault, in words for the object's author.
func understand(namespace string, spec Spec, local *time.Location, now time.Time) ([]job, error) {
	errs := checkTarget(namespace, spec.ScaleTarget)
	if len(spec.Crons) == 0 {
		errs = append(errs, errors.New("crons: there are none"))
	}
	names := map[string]bool{}
	var jobs []job
	for i, c := range spec.Crons {
		wrong := func(err error) { errs = append(errs, fmt.Errorf("crons[%d] %q: %w", i, c.Name, err)) }
		if c.Name == "" || names[c.Name] {
			wrong(errors.New("name: want one that no other cron of this object has"))
		}
		names[c.Name] = true
		if err := checkSize(spec.ScaleTarget.Kind, c); err != nil {
			wrong(err)
		}
		zone, err := schedule.Zone(c.TimeZone, local)
		if err != nil {
			wrong(err)
			continue
		}
		times, err := schedule.Parse(c.Schedule, c.ExcludeDates, zone)
		if err != nil {
			wrong(err)
			continue
		}
		if times.Next(now).IsZero() {
			wrong(fmt.Errorf("schedule %q: there is no such time, or only on days that excludeDates has", c.Schedule))
			continue
		}
		jobs = append(jobs, job{Cron: c, schedule: times})
	}
	return jobs, oneLine(errs)
}

// oneLine joins errors for a condition and an event.
func oneLine(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	var all []string
	for _, err := range errs {
		all = append(all, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return errors.New(strings.Join(all, "; "))
}

func checkTarget(namespace string, t Target) []error {
	var errs []error
	group, _, _ := strings.Cut(t.APIVersion, "/")
	if place, ok := placeOf(t.Kind); !ok {
		errs = append(errs, fmt.Errorf("scaleTarget.kind %q: want Deployment, StatefulSet or HorizontalPodAutoscaler", t.Kind))
	} else if group != place.Group {
		errs = append(errs, fmt.Errorf("scaleTarget.apiVersion %q: a %s is of %s", t.APIVersion, t.Kind, place.GroupVersion()))
	}
	if t.Name == "" {
		errs = append(errs, errors.New("scaleTarget.name: want the name of what is to be scaled"))
	}
	if t.Namespace != "" && t.Namespace != namespace {
		errs = append(errs, fmt.Errorf("scaleTarget.namespace %q: only what is in the object's own namespace, %q, can be scaled", t.Namespace, namespace))
	}
	return errs
}

func checkSize(kind string, c Cron) error {
	autoscaler := kind == autoscalerKind
	for _, size := range []*int32{c.TargetSize, c.MinSize, c.MaxSize} {
		if size != nil && *size < 0 {
			return fmt.Errorf("size %d: want no less than 0", *size)
		}
	}
	switch {
	case c.TargetSize != nil && c.MinSize == nil && c.MaxSize == nil:
		return nil
	case c.TargetSize != nil:
		return errors.New("targetSize goes without minSize and maxSize")
	case !autoscaler:
		return errors.New("targetSize is missing; minSize and maxSize are for a HorizontalPodAutoscaler")
	case c.MinSize == nil || c.MaxSize == nil:
		return errors.New("want targetSize, or both of minSize and maxSize")
	case *c.MinSize > *c.MaxSize || *c.MaxSize == 0:
		return fmt.Errorf("minSize %d, maxSize %d: want maxSize above 0 and no less than minSize", *c.MinSize, *c.MaxSize)
	}
	return nil
}

// due is an entry whose time has come.
type due struct {
	job    job
	at     time.Time // the latest time that came
	before time.Time // the one before that, if two came; else zero
}

// come lists the entries of which a time came in the span from what considered says to now, in their order.
func come(jobs []job, considered map[string]time.Time, now time.Time) []due {
	var list []due
	for _, j := range jobs {
		from, ok := considered[j.Name]
		if !ok {
			continue
		}
		at := j.schedule.Last(from, now)
		if at.IsZero() {
			continue
		}
		list = append(list, due{job: j, at: at, before: j.schedule.Last(from, at.Add(-1))})
	}
	return list
}

// choose says which of what is due is carried out: the latest, and of several at one time the last in the list. The others would be
// undone by it. It is -1 when the latest is too long ago.
func choose(list []due, now time.Time) int {
	chosen := -1
	for i, d := range list {
		if now.Sub(d.at) <= catchUp && (chosen < 0 || !d.at.Before(list[chosen].at)) {
			chosen = i
		}
	}
	return chosen
}
