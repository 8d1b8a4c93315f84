package price

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/podsize"
)

func table(t *testing.T, currency string) Table {
	t.Helper()
	tables, err := DefaultTables()
	if err != nil {
		t.Fatal(err)
	}
	return tables[currency]
}

func TestCost(t *testing.T) {
	for _, tt := range []struct {
		name, currency string
		size           podsize.Size
		seconds        int64
		hundredths     int
		times          Amount // Pods
		want           string
	}{
		// The cloud's own two examples; of the first, its page in USD gives a sum that contradicts its formula.
		{"two Pods of 2C4Gi for five minutes", "CNY", podsize.Size{Type: "intel", CPU: 2000, Memory: 4 * podsize.Gi}, 300, 100, 2, "0.073344"},
		{"the same in dollars", "USD", podsize.Size{Type: "intel", CPU: 2000, Memory: 4 * podsize.Gi}, 300, 100, 2, "0.010946"},
		{"twenty Pods of 4C8Gi for ten minutes", "CNY", podsize.Size{Type: "intel", CPU: 4000, Memory: 8 * podsize.Gi}, 600, 100, 20, "2.933760"},
		{"the same twenty in dollars", "USD", podsize.Size{Type: "intel", CPU: 4000, Memory: 8 * podsize.Gi}, 600, 100, 20, "0.437856"},
		{"spot costs a fifth", "CNY", podsize.Size{Type: "intel", CPU: 4000, Memory: 8 * podsize.Gi}, 600, Spot, 20, "0.586752"},
		{"the smallest for a second", "USD", podsize.Size{Type: "intel", CPU: 250, Memory: podsize.Gi / 2}, 1, 100, 1, "0.000002"},
		{"a V100 for an hour", "CNY", podsize.Size{Type: "V100", CPU: 8000, Memory: 40 * podsize.Gi, GPU: 1}, 3600, 100, 1, "18.039024"},
		{"a quarter of a T4 for an hour", "CNY", podsize.Size{Type: "1/4*T4", CPU: 4000, Memory: 20 * podsize.Gi, GPU: 1}, 3600, 100, 1, "3.385404"},
		{"no time", "CNY", podsize.Size{Type: "amd", CPU: 1000, Memory: podsize.Gi}, 0, 100, 1, "0.000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			one, err := table(t, tt.currency).Cost(tt.size, tt.seconds, tt.hundredths)
			if got := (one * tt.times).Format(6); err != nil || got != tt.want {
				t.Errorf("%d × %s = %s, %v; want %s", tt.times, tt.size, got, err, tt.want)
			}
		})
	}
}

func TestCostRefuses(t *testing.T) {
	cny := table(t, "CNY")
	if _, err := cny.Cost(podsize.Size{Type: "A10*PNV4", GPU: 1}, 1, 100); !errors.Is(err, ErrNoPrice) {
		t.Errorf("a type without a price: %v, want %v", err, ErrNoPrice)
	}
	for name, seconds := range map[string]int64{"less than no time": -1, "longer than can be counted": math.MaxInt64} {
		if a, err := cny.Cost(podsize.Size{Type: "intel", CPU: 1000, Memory: podsize.Gi}, seconds, 100); err == nil {
			t.Errorf("%s costs %d", name, a)
		}
	}
}

// However a time is parted, the parts cost what the whole does, but for the rounding of each.
func TestPartsCostTheWhole(t *testing.T) {
	cny, r := table(t, "CNY"), rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := podsize.Size{Type: "intel", CPU: 250 * (1 + r.Int64N(64)), Memory: podsize.Gi / 2 * (1 + r.Int64N(128))}
		a, b := r.Int64N(100_000), r.Int64N(100_000)
		whole, err := cny.Cost(s, a+b, 100)
		if err != nil {
			t.Fatal(err)
		}
		first, _ := cny.Cost(s, a, 100)
		second, _ := cny.Cost(s, b, 100)
		if off := whole - first - second; off < -1 || off > 1 {
			t.Errorf("%s for %d and %d seconds: %d and %d billionths, but %d together", s, a, b, first, second, whole)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		amount Amount
		digits int
		want   string
	}{
		{0, 2, "0.00"}, {Unit, 0, "1"}, {1_005_000_000, 2, "1.01"}, {999_999_999, 2, "1.00"}, {-1_005_000_000, 2, "-1.01"}, {1, 9, "0.000000001"}, {49, 7, "0.0000000"}, {50, 7, "0.0000001"},
	} {
		if got := tt.amount.Format(tt.digits); got != tt.want {
			t.Errorf("Format(%d, %d) = %s, want %s", tt.amount, tt.digits, got, tt.want)
		}
	}
}

func TestATableOfPricesIsChecked(t *testing.T) {
	for _, tt := range []struct{ name, text, says string }{
		{"nothing", "", "no currency"},
		{"no currency", "yuan: {digits: 2, rates: {a: {cpu: '1', memory: '1'}}}", `"yuan"`},
		{"no digits", "CNY: {rates: {a: {cpu: '1', memory: '1'}}}", "CNY.digits"},
		{"no rates", "CNY: {digits: 2}", "CNY.rates: none"},
		{"no memory", "CNY: {digits: 2, rates: {a: {cpu: '1'}}}", "CNY.rates.a: memory is missing"},
		{"unknown resource", "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1', disk: '1'}}}", `"disk"`},
		{"negative", "CNY: {digits: 2, rates: {a: {cpu: '-1', memory: '1'}}}", `"-1"`},
		{"a float", "CNY: {digits: 2, rates: {a: {cpu: '1e-5', memory: '1'}}}", `"1e-5"`},
		{"too fine", "CNY: {digits: 2, rates: {a: {cpu: '0.0000000000001', memory: '1'}}}", "at most twelve decimals"},
		{"a reservation without memory", "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1'}}, reservations: {common: {cpu: '1'}}}", "CNY.reservations.common: memory is missing"},
		{"unknown key", "CNY: {digits: 2, rate: {}}", "rate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseTables([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("ParseTables = %v, want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestEveryFaultOfATableIsNamed(t *testing.T) {
	_, err := ParseTables([]byte("yuan: {digits: 2, rates: {a: {cpu: '1', memory: '1'}}}\nCNY: {digits: 10}\nUSD: {digits: 2, rates: {intel: {cpu: '1e-5', disk: '1'}}}"))
	want := `read prices: CNY.digits: want 0 to 9 decimals
USD.rates.intel: cpu: "1e-5": want a price such as "0.00003334", with at most twelve decimals
"disk": want cpu, memory or gpu
memory is missing
"yuan": want a currency's three capital letters`
	if err == nil || err.Error() != want {
		t.Errorf("ParseTables = %v\nwant %s", err, want)
	}
}

func TestReservation(t *testing.T) {
	small := podsize.Size{Type: "common", CPU: 2000, Memory: 4 * podsize.Gi}
	for _, tt := range []struct {
		name       string
		size       podsize.Size
		months     int
		hundredths int64
		want       string
	}{
		{"a month of 2C4Gi", small, 1, 100, "178.000000"},
		{"six months", small, 6, 88, "939.840000"},
		{"a part of a core", podsize.Size{Type: "common", CPU: 250, Memory: podsize.Gi / 2}, 1, 100, "22.250000"},
		{"AMD for five years", podsize.Size{Type: "amd", CPU: 16000, Memory: 64 * podsize.Gi}, 60, 50, "46176.000000"},
	} {
		got, err := table(t, "CNY").Reservation(tt.size, tt.months, tt.hundredths)
		if err != nil || got.Format(6) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.name, got.Format(6), err, tt.want)
		}
	}
	_, err := table(t, "USD").Reservation(small, 1, 100)
	if want := "reservations of type common in USD: no price; set one below reservations in the table of prices"; !errors.Is(err, ErrNoPrice) || err.Error() != want {
		t.Errorf("in USD: %v, want %q", err, want)
	}
}

func textOf(t *testing.T, table Table) string {
	t.Helper()
	text, err := table.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTextIsReadAsTheTableItWas(t *testing.T) {
	for _, currency := range []string{"CNY", "USD"} {
		want := table(t, currency)
		got, err := ParseText(textOf(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Table{}, rate{})); diff != "" {
			t.Errorf("the table (-written +read):\n%s", diff)
		}
	}
}

func TestTextTellsPricesApart(t *testing.T) {
	if one, again := textOf(t, table(t, "CNY")), textOf(t, table(t, "CNY")); one != again {
		t.Errorf("the same table has two texts, %s and %s", one, again)
	}
	seen := map[string]string{}
	for name, text := range map[string]string{
		"one": "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1'}}}", "digits": "CNY: {digits: 3, rates: {a: {cpu: '1', memory: '1'}}}",
		"a rate": "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1.000000000001'}}}", "a kind": "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1'}, b: {cpu: '1', memory: '1'}}}",
		"a reservation": "CNY: {digits: 2, rates: {a: {cpu: '1', memory: '1'}}, reservations: {b: {cpu: '1', memory: '1'}}}",
	} {
		tables, err := ParseTables([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		text := textOf(t, tables["CNY"])
		if other, ok := seen[text]; ok {
			t.Errorf("%s and %s have one text", name, other)
		}
		seen[text] = name
	}
}

func TestParseAmount(t *testing.T) {
	for _, a := range []Amount{0, 1, -1, Unit, -1_005_000_000, math.MaxInt64, math.MinInt64 + 1} {
		if got, err := ParseAmount(a.Format(9)); err != nil || got != a {
			t.Errorf("ParseAmount(%s) = %d, %v", a.Format(9), got, err)
		}
	}
	if got, err := ParseAmount("0.5"); err != nil || got != Unit/2 {
		t.Errorf("ParseAmount(0.5) = %d, %v", got, err)
	}
	for _, text := range []string{"", ".5", "1.", "1e3", "+1", "0.0000000001", "9999999999", "=1", " 1"} {
		if got, err := ParseAmount(text); err == nil {
			t.Errorf("ParseAmount(%q) = %d", text, got)
		}
	}
}
