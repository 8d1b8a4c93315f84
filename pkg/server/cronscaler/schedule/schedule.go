// Package schedule tells when the crons of a HorizontalPodCronscaler come due: six fields with the seconds first, in a time zone, without
// the days that are excluded. pkg/server/cronscaler calls it. It is pure; the fields are read and walked by robfig/cron, as in
// Kubernetes' CronJobs.
//
// Where clocks go forward, a time that does not exist that day does not come; where they go back, one that exists twice comes twice.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // time zones on hosts that have none

	"github.com/robfig/cron/v3"
)

// Schedule is a set of times. The zero Schedule is not usable.
type Schedule struct {
	at       *cron.SpecSchedule
	zone     *time.Location
	excluded []*cron.SpecSchedule // by their days
}

// Parse reads a schedule and the patterns of the days on which it does not come. Such a pattern has the same six fields; as in the cloud a
// day is the smallest unit, and the fields of the time of day do not count. The error names every fault.
func Parse(text string, excluded []string, zone *time.Location) (Schedule, error) {
	s := Schedule{zone: zone}
	var errs []error
	var err error
	if s.at, err = parse(text); err != nil {
		errs = append(errs, fmt.Errorf("schedule %q: %w", text, err))
	}
	for i, pattern := range excluded {
		day, err := parse(pattern)
		if err != nil {
			errs = append(errs, fmt.Errorf("excludeDates[%d] %q: %w", i, pattern, err))
			continue
		}
		s.excluded = append(s.excluded, day)
	}
	return s, errors.Join(errs...)
}

// Zone finds a time zone by its name, such as "Asia/Shanghai"; without a name it is local.
func Zone(name string, local *time.Location) (*time.Location, error) {
	if name == "" {
		return local, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || strings.EqualFold(name, "local") {
		return nil, fmt.Errorf("timeZone %q: want the name of a time zone, such as \"Asia/Shanghai\" or \"UTC\"", name)
	}
	return zone, nil
}

const fields = 6

// parse is cron's own, which panics at some prefixes and takes lists without members.
func parse(text string) (*cron.SpecSchedule, error) {
	if n := len(strings.Fields(text)); n != fields {
		return nil, fmt.Errorf("has %d fields, want %d, the seconds first, such as \"0 30 8 * * *\"", n, fields)
	}
	if strings.Contains(text, "=") {
		return nil, errors.New("want no time zone in it; timeZone is for that")
	}
	parsed, err := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(text)
	if err != nil {
		return nil, err
	}
	s, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("is a %T", parsed)
	}
	for _, set := range []uint64{s.Second, s.Minute, s.Hour, s.Dom, s.Month, s.Dow} {
		if set == 0 {
			return nil, errors.New("a field has no value in it")
		}
	}
	return s, nil
}

// mostExcluded bounds how many excluded days in a row are passed over: ten years.
const mostExcluded = 3660

// Next is the first time after t, in the schedule's zone, or zero if there is none within about ten years.
func (s Schedule) Next(t time.Time) time.Time {
	t = t.In(s.zone)
	for range mostExcluded {
		next := s.at.Next(t)
		if next.IsZero() { // within five years; a 29th of February can be eight years away
			next = s.at.Next(t.AddDate(5, 0, 0))
		}
		if next.IsZero() || !s.isExcluded(next) {
			return next
		}
		t = dayAfter(next).Add(-1)
	}
	return time.Time{}
}

// dayAfter is the first moment of the day after t's. It is not always midnight, which some days do not have.
func dayAfter(t time.Time) time.Time {
	next := time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
	for next.Day() == t.Day() {
		next = next.Add(time.Hour)
	}
	return next
}

func (s Schedule) isExcluded(t time.Time) bool {
	for _, pattern := range s.excluded {
		if onDay(pattern, t) {
			return true
		}
	}
	return false
}

// star is the bit by which cron marks a field that leaves everything open.
const star = 1 << 63

// onDay is cron's rule: day and weekday must both fit, or one of them if both are restricted.
func onDay(s *cron.SpecSchedule, t time.Time) bool {
	if s.Month&(1<<uint(t.Month())) == 0 {
		return false
	}
	day, weekday := s.Dom&(1<<uint(t.Day())) != 0, s.Dow&(1<<uint(t.Weekday())) != 0
	if s.Dom&star != 0 || s.Dow&star != 0 {
		return day && weekday
	}
	return day || weekday
}

// Last is the latest time after t and not after until, or zero. It is quick however far t is back.
func (s Schedule) Last(t, until time.Time) time.Time {
	first := s.Next(t)
	if first.IsZero() || first.After(until) {
		return time.Time{}
	}
	const day = 24 * time.Hour
	for _, back := range []time.Duration{time.Minute, time.Hour, day, 31 * day, 366 * day} {
		from := until.Add(-back)
		if from.Before(first) {
			break
		}
		if near := s.Next(from); !near.IsZero() && !near.After(until) {
			first = near
			break
		}
	}
	for {
		next := s.Next(first)
		if next.IsZero() || next.After(until) {
			return first
		}
		first = next
	}
}
