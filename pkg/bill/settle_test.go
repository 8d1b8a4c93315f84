package bill

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

var hour = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func yuan(t *testing.T) price.Table {
	t.Helper()
	tables, err := price.DefaultTables()
	if err != nil {
		t.Fatal(err)
	}
	return tables["CNY"]
}

func size(kind string, cores, gib int64) podsize.Size {
	return podsize.Size{Type: kind, CPU: cores * 1000, Memory: gib * podsize.Gi}
}

// ran is a sandbox that ran from one minute of the hour to another.
func ran(id string, s podsize.Size, from, to float64) Usage {
	at := func(minutes float64) time.Time { return hour.Add(time.Duration(minutes * float64(time.Minute))) }
	return Usage{ID: id, Size: s, Start: at(from), End: at(to)}
}

func valid(id string, s podsize.Size) Reservation {
	return Reservation{ID: id, Size: s, From: hour.AddDate(0, -1, 0), Until: hour.AddDate(0, 1, 0)}
}

// brief is a line without what the tests of a whole hour know anyway.
type brief struct {
	Usage       string
	Seconds     int64
	Charge      Charge
	Reservation string
}

func TestSettle(t *testing.T) {
	small, amd := size("intel", 2, 4), size("amd", 2, 4)
	spot := ran("a", small, 0, 60)
	spot.Spot = true
	elsewhere := valid("c", size(Common, 2, 4))
	elsewhere.Node = "other"
	shops, ours, theirs := valid("n", size(Common, 2, 4)), ran("a", small, 0, 60), ran("b", small, 0, 60)
	shops.Namespace, ours.Namespace, theirs.Namespace = "shop", "shop", "other"
	for _, tt := range []struct {
		name         string
		usages       []Usage
		reservations []Reservation
		want         []brief
	}{
		{"by the second", []Usage{ran("a", small, 10, 15)}, nil, []brief{{"a", 300, PostPaid, ""}}},
		{"the part of a longer life", []Usage{ran("a", small, -90, 61)}, nil, []brief{{"a", 3600, PostPaid, ""}}},
		{"one that runs on", []Usage{{ID: "a", Size: small, Start: hour.Add(59 * time.Minute)}}, nil, []brief{{"a", 60, PostPaid, ""}}},
		{"one of another hour", []Usage{ran("a", small, -30, 0), ran("b", small, 60, 61)}, nil, nil},
		{"spot", []Usage{spot}, []Reservation{valid("c", size(Common, 2, 4))}, []brief{{"a", 3600, Spot, ""}}},
		{"a reservation", []Usage{ran("a", small, 0, 60)}, []Reservation{valid("c", size(Common, 2, 4))}, []brief{{"a", 3600, Reserved, "c"}}},
		{"two halves share a reservation", []Usage{ran("a", small, 0, 30), ran("b", small, 0, 30)}, []Reservation{valid("c", size(Common, 2, 4))},
			[]brief{{"a", 1800, Reserved, "c"}, {"b", 1800, Reserved, "c"}}},
		{"what it does not cover is paid for", []Usage{ran("a", small, 0, 40), ran("b", small, 0, 30)}, []Reservation{valid("c", size(Common, 2, 4))},
			[]brief{{"a", 2400, Reserved, "c"}, {"b", 1200, Reserved, "c"}, {"b", 600, PostPaid, ""}}},
		{"another spec", []Usage{ran("a", size("intel", 2, 5), 0, 60)}, []Reservation{valid("c", size(Common, 2, 4))}, []brief{{"a", 3600, PostPaid, ""}}},
		{"another node", []Usage{ran("a", small, 0, 60)}, []Reservation{elsewhere}, []brief{{"a", 3600, PostPaid, ""}}},
		{"another namespace", []Usage{theirs}, []Reservation{shops}, []brief{{"b", 3600, PostPaid, ""}}},
		{"one of a namespace leaves that of the cluster to others", []Usage{ours, theirs}, []Reservation{valid("c", size(Common, 2, 4)), shops}, []brief{{"a", 3600, Reserved, "n"}, {"b", 3600, Reserved, "c"}}},
		{"a common one pays for Intel first", []Usage{ran("a", amd, 0, 60), ran("b", small, 0, 60)}, []Reservation{valid("c", size(Common, 2, 4))},
			[]brief{{"a", 3600, PostPaid, ""}, {"b", 3600, Reserved, "c"}}},
		{"and then for AMD", []Usage{ran("a", amd, 0, 60), ran("b", small, 0, 15)}, []Reservation{valid("c", size(Common, 2, 4))},
			[]brief{{"a", 2700, Reserved, "c"}, {"a", 900, PostPaid, ""}, {"b", 900, Reserved, "c"}}},
		{"one of AMD leaves the common one to others", []Usage{ran("a", amd, 0, 60), ran("b", amd, 1, 60)}, []Reservation{valid("c", size(Common, 2, 4)), valid("d", size("amd", 2, 4))},
			[]brief{{"a", 3600, Reserved, "d"}, {"b", 3540, Reserved, "c"}}},
		{"one of AMD pays for no Intel", []Usage{ran("a", small, 0, 60)}, []Reservation{valid("d", size("amd", 2, 4))}, []brief{{"a", 3600, PostPaid, ""}}},
		{"one that has expired", []Usage{ran("a", small, 0, 60)}, []Reservation{{ID: "c", Size: size(Common, 2, 4), From: hour.AddDate(0, -1, 0), Until: hour}}, []brief{{"a", 3600, PostPaid, ""}}},
		{"one bought in this very hour", []Usage{ran("a", small, 0, 60)}, []Reservation{{ID: "c", Size: size(Common, 2, 4), From: hour.Add(time.Minute), Until: hour.AddDate(0, 1, 0)}}, []brief{{"a", 3600, Reserved, "c"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines := Settle(hour.Add(time.Minute), tt.usages, tt.reservations, yuan(t))
			var got []brief
			for _, l := range lines {
				got = append(got, brief{l.Usage, l.Seconds, l.Charge, l.Reservation})
				if (l.Charge == Reserved) != (l.Amount == 0) || !l.Cycle.Equal(hour) {
					t.Errorf("line %+v: want the hour, and nothing to pay for a reservation only", l)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// What has no price is on the bill all the same, with the reason, and keeps nothing else from being charged.
func TestTimeWithoutAPrice(t *testing.T) {
	lines := Settle(hour, []Usage{ran("a", size("intel", 1, 2), 0, 1), ran("b", size("quantum", 1, 2), 0, 1), ran("c", podsize.Size{}, 0, 1)}, nil, yuan(t))
	want := []Line{
		{Usage: "a", Cycle: hour, Seconds: 60, Charge: PostPaid, Amount: 3_667_200},
		{Usage: "b", Cycle: hour, Seconds: 60, Charge: Unpriced, Why: "type quantum in CNY: no price; set one in the table of prices"},
		{Usage: "c", Cycle: hour, Seconds: 60, Charge: Unpriced, Why: "its spec is not known"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestCorrect(t *testing.T) {
	small := size("intel", 2, 4)
	c := valid("c", size(Common, 2, 4))
	// a has 1800 s reserved; b has 1800 s reserved and 600 s paid.
	first := Settle(hour, []Usage{ran("a", small, 0, 30), ran("b", small, 20, 60)}, []Reservation{c}, yuan(t))
	perSecond := first[2].Amount / 600
	for _, tt := range []struct {
		name   string
		usages []Usage
		want   []Line
	}{
		{"nothing new", []Usage{ran("a", small, 0, 30), ran("b", small, 20, 60)}, nil},
		{"one ran longer, and the reservation is used up", []Usage{ran("a", small, 0, 31)}, []Line{{Usage: "a", Cycle: hour, Seconds: 60, Charge: PostPaid, Amount: 60 * perSecond}}},
		{"one ended before, which frees none of the reservation", []Usage{ran("b", small, 20, 55)}, []Line{{Usage: "b", Cycle: hour, Seconds: -300, Charge: PostPaid, Amount: -300 * perSecond}}},
		{"one ended before, which frees some of the reservation", []Usage{ran("b", small, 20, 35), ran("d", small, 0, 10)}, []Line{
			{Usage: "b", Cycle: hour, Seconds: -600, Charge: PostPaid, Amount: -600 * perSecond}, {Usage: "b", Cycle: hour, Seconds: -900, Charge: Reserved, Reservation: "c"},
			{Usage: "d", Cycle: hour, Seconds: 600, Charge: Reserved, Reservation: "c"}}},
		{"one did not run at all", []Usage{ran("b", small, -60, 0)}, []Line{
			{Usage: "b", Cycle: hour, Seconds: -600, Charge: PostPaid, Amount: -600 * perSecond}, {Usage: "b", Cycle: hour, Seconds: -1800, Charge: Reserved, Reservation: "c"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Correct(hour, tt.usages, []Reservation{c}, yuan(t), first)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if again := Correct(hour, tt.usages, []Reservation{c}, yuan(t), slices.Concat(first, got)); len(again) > 0 {
				t.Errorf("and then again: %+v", again)
			}
		})
	}
}

// Every second of every life is charged once, whatever the reservations and in whatever order things are given.
func TestNoSecondIsLostOrChargedTwice(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var usages []Usage
		want := map[string]int64{}
		for i := range 1 + r.IntN(8) {
			u := ran(string(rune('a'+i)), size([]string{"intel", "amd"}[r.IntN(2)], 1, 1+r.Int64N(2)), 100*r.Float64(), 0)
			u.End = u.Start.Add(time.Duration(r.Int64N(int64(90 * time.Minute))))
			usages, want[u.ID] = append(usages, u), u.End.Unix()-u.Start.Unix()
		}
		var reservations []Reservation
		for i := range r.IntN(4) {
			reservations = append(reservations, valid(string(rune('p'+i)), size([]string{Common, "amd"}[r.IntN(2)], 1, 1+r.Int64N(2))))
		}
		got, spent := map[string]int64{}, map[string]int64{}
		for cycle := range 4 {
			at := hour.Add(time.Duration(cycle) * Cycle)
			lines := Settle(at, usages, reservations, yuan(t))
			slices.Reverse(usages)
			slices.Reverse(reservations)
			again := Settle(at, usages, reservations, yuan(t))
			if diff := cmp.Diff(lines, again); diff != "" {
				t.Fatalf("in another order (-first +second):\n%s", diff)
			}
			for _, l := range lines {
				got[l.Usage] += l.Seconds
				if spent[at.String()+l.Reservation] += l.Seconds; l.Reservation != "" && spent[at.String()+l.Reservation] > 3600 {
					t.Fatalf("reservation %s pays for %d seconds of an hour", l.Reservation, spent[at.String()+l.Reservation])
				}
			}
		}
		for id, n := range want {
			if got[id] != n {
				t.Fatalf("sandbox %s ran for %d seconds and is charged for %d", id, n, got[id])
			}
		}
	}
}

func TestValidUntil(t *testing.T) {
	for _, tt := range []struct {
		bought string
		months int
		want   string
	}{
		{"2026-03-15T10:30:00Z", 1, "2026-04-16T00:00:00Z"},
		{"2026-01-31T10:30:00Z", 1, "2026-03-01T00:00:00Z"},
		{"2027-12-31T23:59:59Z", 2, "2028-03-01T00:00:00Z"},
		{"2026-03-15T10:30:00Z", 12, "2027-03-16T00:00:00Z"},
	} {
		bought, err := time.Parse(time.RFC3339, tt.bought)
		if err != nil {
			t.Fatal(err)
		}
		if got := ValidUntil(bought, tt.months).Format(time.RFC3339); got != tt.want {
			t.Errorf("ValidUntil(%s, %d) = %s, want %s", tt.bought, tt.months, got, tt.want)
		}
	}
}

func TestTerms(t *testing.T) {
	for months, want := range map[int]int64{1: 100, 5: 100, 6: 88, 11: 88, 12: 83, 24: 70, 36: 50, 60: 50, 0: 0, -1: 0, 13: 0, 61: 0} {
		if got, err := TermHundredths(months); got != want || (err == nil) == (want == 0) {
			t.Errorf("TermHundredths(%d) = %d, %v; want %d", months, got, err, want)
		}
	}
}

func TestRefund(t *testing.T) {
	c := Reservation{From: hour, Until: hour.AddDate(0, 0, 30)}
	const paid = 300 * price.Unit
	for _, tt := range []struct {
		name string
		now  time.Time
		want price.Amount
	}{
		{"at once", hour, paid},
		{"a day begun is a day", hour.Add(time.Second), 290 * price.Unit},
		{"ten days", hour.AddDate(0, 0, 10), 200 * price.Unit},
		{"the last day", hour.AddDate(0, 0, 29).Add(time.Minute), 0},
		{"after the end", hour.AddDate(1, 0, 0), 0},
		{"before the beginning", hour.Add(-time.Hour), paid},
	} {
		if got := Refund(c, paid, tt.now); got != tt.want {
			t.Errorf("%s: Refund = %s, want %s", tt.name, got.Format(2), tt.want.Format(2))
		}
	}
}

func TestUnused(t *testing.T) {
	wide, amd, shops := valid("wide", size(Common, 2, 4)), valid("amd", size("amd", 2, 4)), valid("shops", size(Common, 2, 4))
	shops.Namespace = "shop"
	of := func(namespace, kind string, spot bool) Usage {
		return Usage{Namespace: namespace, Size: size(kind, 2, 4), Spot: spot}
	}
	for _, tt := range []struct {
		name    string
		running []Usage
		want    []string
	}{
		{"nobody", nil, []string{"shops", "amd", "wide"}},
		{"the narrowest first", []Usage{of("shop", "amd", false)}, []string{"amd", "wide"}},
		{"one each", []Usage{of("shop", "amd", false), of("shop", "amd", false), of("shop", "intel", false)}, nil},
		{"more than there are", []Usage{of("other", "intel", false), of("other", "intel", false)}, []string{"shops", "amd"}},
		{"spot", []Usage{of("shop", "intel", true)}, []string{"shops", "amd", "wide"}},
	} {
		var got []string
		for _, c := range Unused([]Reservation{wide, amd, shops}, tt.running) {
			got = append(got, c.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
