package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/server/cronscaler/schedule"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := schedule.Zone(name, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func at(t *testing.T, text string, zone *time.Location) time.Time {
	t.Helper()
	for _, layout := range []string{"2006-01-02 15:04:05.999999999", "2006-01-02 15:04:05 -0700"} {
		if when, err := time.ParseInLocation(layout, text, zone); err == nil {
			return when
		}
	}
	t.Fatalf("%q is no time", text)
	return time.Time{}
}

func TestNext(t *testing.T) {
	const layout = "2006-01-02 15:04:05 -0700"
	tests := []struct {
		name, text string
		excluded   []string
		zone       string
		after      string
		want       []string // one after the other; "" is never
	}{
		{name: "seconds come first", text: "30 15 8 * * *", after: "2026-03-01 08:15:29", want: []string{"2026-03-01 08:15:30 +0000", "2026-03-02 08:15:30 +0000"}},
		{name: "a time is not after itself", text: "0 0 8 * * *", after: "2026-03-01 08:00:00", want: []string{"2026-03-02 08:00:00 +0000"}},
		{name: "part of a second before it", text: "0 0 8 * * *", after: "2026-03-01 07:59:59.999999999", want: []string{"2026-03-01 08:00:00 +0000"}},
		{name: "every ten seconds", text: "*/10 * * * * *", after: "2026-12-31 23:59:45", want: []string{"2026-12-31 23:59:50 +0000", "2027-01-01 00:00:00 +0000"}},
		{name: "the cloud's own example", text: "30 */1 * * * *", after: "2026-03-01 00:00:31", want: []string{"2026-03-01 00:01:30 +0000", "2026-03-01 00:02:30 +0000"}},
		{name: "ranges, lists and names", text: "0 0 9-10,18 * JAN-MAR,12 MON-FRI", after: "2026-03-31 10:00:00",
			want: []string{"2026-03-31 18:00:00 +0000", "2026-12-01 09:00:00 +0000"}},
		{name: "the question mark leaves a day open", text: "0 0 0 ? * 0", after: "2026-03-01 00:00:00", want: []string{"2026-03-08 00:00:00 +0000"}},
		{name: "day or weekday, when both are said", text: "0 0 0 13 * 5", after: "2026-02-06 00:00:00",
			want: []string{"2026-02-13 00:00:00 +0000", "2026-02-20 00:00:00 +0000", "2026-02-27 00:00:00 +0000", "2026-03-06 00:00:00 +0000", "2026-03-13 00:00:00 +0000"}},

		{name: "a 31st is not in every month", text: "0 0 0 31 * *", after: "2026-03-31 00:00:00", want: []string{"2026-05-31 00:00:00 +0000", "2026-07-31 00:00:00 +0000"}},
		{name: "leap day", text: "0 0 12 29 2 *", after: "2026-01-01 00:00:00", want: []string{"2028-02-29 12:00:00 +0000", "2032-02-29 12:00:00 +0000"}},
		{name: "leap day across 2100, which is no leap year", text: "0 0 12 29 2 *", after: "2096-03-01 00:00:00", want: []string{"2104-02-29 12:00:00 +0000"}},
		{name: "a 30th of February", text: "0 0 0 30 2 *", after: "2026-01-01 00:00:00", want: []string{""}},
		{name: "the last day of February", text: "0 0 0 28,29 2 *", after: "2028-02-28 00:00:00", want: []string{"2028-02-29 00:00:00 +0000", "2029-02-28 00:00:00 +0000"}},

		{name: "a zone's own hour", text: "0 0 8 * * *", zone: "Asia/Shanghai", after: "2026-03-01 08:00:00", want: []string{"2026-03-02 08:00:00 +0800"}},
		{name: "summer time and back", text: "0 0 8 * * *", zone: "Europe/Berlin", after: "2026-03-28 08:00:00",
			want: []string{"2026-03-29 08:00:00 +0200", "2026-03-30 08:00:00 +0200"}},
		{name: "an hour that the clock jumps over does not come", text: "0 30 2 * * *", zone: "Europe/Berlin", after: "2026-03-28 02:30:00",
			want: []string{"2026-03-30 02:30:00 +0200"}},
		{name: "an hour that is there twice comes twice", text: "0 30 2 * * *", zone: "Europe/Berlin", after: "2026-10-24 02:30:00",
			want: []string{"2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100", "2026-10-26 02:30:00 +0100"}},
		{name: "every hour through the jump", text: "0 0 * * * *", zone: "America/New_York", after: "2026-03-08 00:00:00 -0500",
			want: []string{"2026-03-08 01:00:00 -0500", "2026-03-08 03:00:00 -0400", "2026-03-08 04:00:00 -0400"}},
		{name: "every hour through the way back", text: "0 0 * * * *", zone: "America/New_York", after: "2026-11-01 00:00:00 -0400",
			want: []string{"2026-11-01 01:00:00 -0400", "2026-11-01 01:00:00 -0500", "2026-11-01 02:00:00 -0500"}},
		{name: "half an hour of summer time", text: "0 15 2 * * *", zone: "Australia/Lord_Howe", after: "2026-10-03 02:15:00",
			want: []string{"2026-10-05 02:15:00 +1100"}},
		{name: "a day without midnight", text: "0 0 12 * * *", zone: "America/Sao_Paulo", after: "2018-11-03 12:00:00", want: []string{"2018-11-04 12:00:00 -0200"}},
		{name: "a zone of quarter hours", text: "0 0 0 * * *", zone: "Asia/Kathmandu", after: "2026-01-01 00:00:00", want: []string{"2026-01-02 00:00:00 +0545"}},

		{name: "a day of the year is excluded", text: "0 0 8 * * *", excluded: []string{"* * * 15 11 *"}, after: "2026-11-14 08:00:00",
			want: []string{"2026-11-16 08:00:00 +0000"}},
		{name: "a weekday is excluded", text: "0 0 8 * * *", excluded: []string{"* * * * * 5"}, after: "2026-03-05 08:00:00", want: []string{"2026-03-07 08:00:00 +0000"}},
		{name: "an excluded day is excluded to its last second", text: "*/30 * * * * *", excluded: []string{"* * * 15 11 *"}, after: "2026-11-14 23:59:30",
			want: []string{"2026-11-16 00:00:00 +0000"}},
		{name: "the time of day in a pattern does not count", text: "0 0 8 * * *", excluded: []string{"0 0 0 15 11 *"}, after: "2026-11-14 08:00:00",
			want: []string{"2026-11-16 08:00:00 +0000"}},
		{name: "several patterns in a row", text: "0 0 8 * * *", excluded: []string{"* * * 15 11 *", "* * * 16-18 11 ?", "* * * * * 4"}, after: "2026-11-14 08:00:00",
			want: []string{"2026-11-20 08:00:00 +0000"}},
		{name: "day or weekday in a pattern", text: "0 0 8 * * *", excluded: []string{"* * * 1 * 0"}, after: "2026-02-28 08:00:00", want: []string{"2026-03-02 08:00:00 +0000"}},
		{name: "an excluded day is one of the zone", text: "0 0 */6 * * *", excluded: []string{"* * * 15 11 *"}, zone: "Asia/Shanghai", after: "2026-11-14 18:00:00",
			want: []string{"2026-11-16 00:00:00 +0800"}},
		{name: "before an excluded day without midnight", text: "0 30 * * * *", excluded: []string{"* * * 3 11 *"}, zone: "America/Sao_Paulo", after: "2018-11-02 23:30:00",
			want: []string{"2018-11-04 01:30:00 -0200"}},
		{name: "an excluded day on which the clock goes back", text: "0 30 23 * * *", excluded: []string{"* * * 25 10 *"}, zone: "Europe/Berlin", after: "2026-10-24 23:30:00",
			want: []string{"2026-10-26 23:30:00 +0100"}},
		{name: "every day is excluded", text: "0 0 8 * * *", excluded: []string{"* * * * * *"}, after: "2026-01-01 00:00:00", want: []string{""}},
		{name: "its only day is excluded", text: "0 0 8 15 11 *", excluded: []string{"* * * 15 11 *"}, after: "2026-01-01 00:00:00", want: []string{""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			z := zone(t, tt.zone)
			s, err := schedule.Parse(tt.text, tt.excluded, z)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			now := at(t, tt.after, z)
			for range tt.want {
				if now = s.Next(now); now.IsZero() {
					got = append(got, "")
					break
				}
				got = append(got, now.Format(layout))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Next of %q (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

func TestParseNamesEveryFault(t *testing.T) {
	tests := []struct {
		name, text string
		excluded   []string
		want       []string
	}{
		{name: "five fields", text: "0 9 * * *", want: []string{`schedule "0 9 * * *": has 5 fields, want 6, the seconds first`}},
		{name: "nothing", text: "", want: []string{"has 0 fields"}},
		{name: "a name for a time", text: "@daily", want: []string{"has 1 fields"}},
		{name: "an hour that there is not", text: "0 0 24 * * *", want: []string{"24"}},
		{name: "weekday 7", text: "0 0 0 * * 7", want: []string{"7"}},
		{name: "a list of nothing", text: "0 0 , * * *", want: []string{"no value"}},
		{name: "a range backwards", text: "0 0 9-8 * * *", want: []string{"9-8"}},
		{name: "a step of nothing", text: "*/0 * * * * *", want: []string{"*/0"}},
		{name: "a word", text: "0 0 noon * * *", want: []string{"noon"}},
		{name: "a zone in front, at which cron panics when nothing follows", text: "TZ=UTC 0 8 * * *", want: []string{"timeZone"}},
		{name: "a zone in place of a field", text: "CRON_TZ= 0 8 * * *", want: []string{"timeZone"}},
		{name: "two days that cannot be read", text: "0 0 8 * * *", excluded: []string{"* * * 15 11 *", "15 11", "* * * 32 * *"},
			want: []string{`excludeDates[1] "15 11": has 2 fields`, `excludeDates[2] "* * * 32 * *"`}},
		{name: "schedule and day", text: "x 0 8 * * *", excluded: []string{""}, want: []string{`schedule "x 0 8 * * *"`, `excludeDates[0] ""`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := schedule.Parse(tt.text, tt.excluded, time.UTC)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestZone(t *testing.T) {
	for _, bad := range []string{"Mars/Olympus", "Local", "local", "../etc/passwd", "+08:00"} {
		if z, err := schedule.Zone(bad, time.UTC); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q is %v, %v", bad, z, err)
		}
	}
	local := time.FixedZone("here", 3600)
	if z, err := schedule.Zone("", local); err != nil || z != local {
		t.Errorf("no name is %v, %v", z, err)
	}
}

func TestLast(t *testing.T) {
	tests := []struct {
		name, text string
		excluded   []string
		after, to  string
		want       string
	}{
		{name: "nothing came", text: "0 0 8 * * *", after: "2026-03-01 08:00:00", to: "2026-03-02 07:59:59"},
		{name: "one came, just now", text: "0 0 8 * * *", after: "2026-03-01 08:00:00", to: "2026-03-02 08:00:00", want: "2026-03-02 08:00:00"},
		{name: "of several the last", text: "0 */5 * * * *", after: "2026-03-01 08:00:00", to: "2026-03-01 08:23:00", want: "2026-03-01 08:20:00"},
		{name: "every second for three years", text: "* * * * * *", after: "2023-03-01 08:00:00", to: "2026-03-01 08:23:17", want: "2026-03-01 08:23:17"},
		{name: "one a year, years ago", text: "0 0 0 1 1 *", after: "2015-03-01 00:00:00", to: "2026-03-01 08:23:17", want: "2026-01-01 00:00:00"},
		{name: "one in four years, years ago", text: "0 0 0 29 2 *", after: "2001-03-01 00:00:00", to: "2027-03-01 08:23:17", want: "2024-02-29 00:00:00"},
		{name: "a burst once a year", text: "* * 12 24 12 *", after: "2020-01-01 00:00:00", to: "2026-11-01 00:00:00", want: "2025-12-24 12:59:59"},
		{name: "the last was on an excluded day", text: "0 0 8 * * *", excluded: []string{"* * * 2-4 3 *"}, after: "2026-02-01 08:00:00", to: "2026-03-04 12:00:00", want: "2026-03-01 08:00:00"},
		{name: "all were on excluded days", text: "0 0 8 * * *", excluded: []string{"* * * 2-4 3 *"}, after: "2026-03-01 08:00:00", to: "2026-03-04 12:00:00"},
		{name: "nothing ever", text: "0 0 0 31 2 *", after: "2026-03-01 08:00:00", to: "2036-03-04 12:00:00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := schedule.Parse(tt.text, tt.excluded, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if last := s.Last(at(t, tt.after, time.UTC), at(t, tt.to, time.UTC)); !last.IsZero() {
				got = last.Format(time.DateTime)
			}
			if got != tt.want {
				t.Errorf("Last is %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNextIsTheFirst compares with a look at each second, over the hours in which clocks are changed.
func TestNextIsTheFirst(t *testing.T) {
	z := zone(t, "Europe/Berlin")
	s, err := schedule.Parse("*/17 */13 1-3 * * *", []string{"* * * 26 10 *"}, z)
	if err != nil {
		t.Fatal(err)
	}
	fits := func(now time.Time) bool {
		return now.Second()%17 == 0 && now.Minute()%13 == 0 && now.Hour() >= 1 && now.Hour() <= 3 && (now.Day() != 26 || now.Month() != time.October)
	}
	for _, day := range []string{"2026-03-28 22:00:00", "2026-10-24 22:00:00"} {
		start := at(t, day, z)
		next := s.Next(start)
		for offset := time.Second; offset <= 54*time.Hour; offset += time.Second {
			now := start.Add(offset)
			if fits(now) != now.Equal(next) {
				t.Fatalf("at %v: next is %v", now, next)
			}
			if now.Equal(next) {
				next = s.Next(now)
			}
		}
	}
}
