// Package price says what a spec costs for a time. pkg/bill calls it for each line of a bill. It is pure, and counts in
// integers only: no amount depends on the order in which lines are added.
//
// The formula is that of TKE Serverless ("Product pricing"): (cores × price + GiB × price + GPUs × price) × seconds, of
// the spec and not of what the Pod asked for.
package price

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodeless/nodeless/pkg/podsize"
)

// Amount is money in billionths of a currency's unit: enough for nine billion units.
type Amount int64

// Unit is one dollar, or one yuan.
const Unit Amount = 1e9

// Format writes an amount with so many decimals, rounded half up.
func (a Amount) Format(digits int) string {
	sign := ""
	if a < 0 {
		sign, a = "-", -a
	}
	step := Amount(1)
	for range max(0, 9-digits) {
		step *= 10
	}
	a = (a + step/2) / step * step
	text := fmt.Sprintf("%s%d.%09d", sign, a/Unit, a%Unit)
	return strings.TrimSuffix(text[:len(text)-9+min(digits, 9)], ".")
}

var amountForm = regexp.MustCompile(`^(-?)([0-9]{1,10})(?:\.([0-9]{1,9}))?$`)

// ParseAmount reads what Format writes.
func ParseAmount(text string) (Amount, error) {
	m := amountForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("read amount %q: want a decimal such as 0.036672", text)
	}
	n, err := strconv.ParseInt(m[1]+m[2]+(m[3] + "000000000")[:9], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read amount %q: more than can be counted", text)
	}
	return Amount(n), nil
}

// ErrNoPrice says that a type has no price in a currency.
var ErrNoPrice = errors.New("no price")

// Spot is the part of the list price that a spot Pod costs, in hundredths.
const Spot = 20

// Table is the prices of one currency.
type Table struct {
	Currency string // ISO 4217
	Digits   int    // decimals of its smallest unit on a bill
	rates    map[string]rate
	monthly  map[string]rate // of reservations, by their kind
}

// rate is what a second costs, or of a reservation a month, in trillionths of a currency's unit. The list has up to nine decimals, and a
// slice of a GPU more.
type rate struct{ core, gib, gpu int64 }

// Cost is what a spec costs for so many seconds at so many hundredths of the list price, rounded half up to an Amount.
func (t Table) Cost(s podsize.Size, seconds int64, hundredths int) (Amount, error) {
	r, ok := t.rates[s.Type]
	if !ok {
		return 0, fmt.Errorf("type %s in %s: %w; set one in the table of prices", s.Type, t.Currency, ErrNoPrice)
	}
	if seconds < 0 || hundredths < 0 {
		return 0, fmt.Errorf("price %s: %d seconds at %d hundredths: want no less than none", s, seconds, hundredths)
	}
	amount, ok := r.times(s, seconds, int64(hundredths))
	if !ok {
		return 0, fmt.Errorf("price %s for %d seconds: more than can be counted", s, seconds)
	}
	return amount, nil
}

// Reservation is what a reservation of a spec, whose type is the kind of reservation, costs for so many months at so many hundredths
// of the list price, rounded half up to an Amount. The error is ErrNoPrice when none is published.
func (t Table) Reservation(s podsize.Size, months int, hundredths int64) (Amount, error) {
	r, ok := t.monthly[s.Type]
	if !ok {
		return 0, fmt.Errorf("reservations of type %s in %s: %w; set one below reservations in the table of prices", s.Type, t.Currency, ErrNoPrice)
	}
	if months < 0 || hundredths < 0 {
		return 0, fmt.Errorf("price reservation of %s: %d months at %d hundredths: want no less than none", s, months, hundredths)
	}
	amount, ok := r.times(s, int64(months), hundredths)
	if !ok {
		return 0, fmt.Errorf("price reservation of %s for %d months: more than can be counted", s, months)
	}
	return amount, nil
}

// times is what a spec costs for so many of the rate's units of time, unless that is more than can be counted.
func (r rate) times(s podsize.Size, units, hundredths int64) (Amount, bool) {
	// In trillionths × thousandths of a core × bytes of a GiB × hundredths, so that nothing is lost before the end.
	sum := product(r.core, s.CPU, podsize.Gi)
	sum.Add(sum, product(r.gib, s.Memory, 1000))
	sum.Add(sum, product(r.gpu, s.GPU, 1000*podsize.Gi))
	sum.Mul(sum, product(units, hundredths))
	denominator := product(1000, 1000, podsize.Gi, 100)
	sum.Mul(sum, big.NewInt(2)).Add(sum, denominator)
	sum.Quo(sum, denominator.Mul(denominator, big.NewInt(2)))
	return Amount(sum.Int64()), sum.IsInt64()
}

// file is what ParseTables reads, by currency.
type file map[string]fileTable

type fileTable struct {
	Digits       *int                         `json:"digits"`
	Rates        map[string]map[string]string `json:"rates"`
	Reservations map[string]map[string]string `json:"reservations,omitempty"`
}

// Text is the table in the form of prices.yaml, for ParseText to read. It is the same for two tables when all of their prices are.
func (t Table) Text() (string, error) {
	raw, err := json.Marshal(file{t.Currency: {Digits: &t.Digits, Rates: fileRates(t.rates), Reservations: fileRates(t.monthly)}})
	if err != nil {
		return "", fmt.Errorf("write prices: %w", err)
	}
	return string(raw), nil
}

// ParseText reads what Text wrote.
func ParseText(text string) (Table, error) {
	tables, err := ParseTables([]byte(text))
	if err != nil {
		return Table{}, err
	}
	if len(tables) != 1 {
		return Table{}, fmt.Errorf("read prices: %d currencies, want one", len(tables))
	}
	var t Table
	for _, t = range tables {
	}
	return t, nil
}

func fileRates(rates map[string]rate) map[string]map[string]string {
	out := map[string]map[string]string{}
	for kind, r := range rates {
		out[kind] = map[string]string{"cpu": decimal(r.core), "memory": decimal(r.gib), "gpu": decimal(r.gpu)}
	}
	return out
}

func product(factors ...int64) *big.Int {
	p := big.NewInt(1)
	for _, f := range factors {
		p.Mul(p, big.NewInt(f))
	}
	return p
}

//go:embed prices.yaml
var builtIn []byte

// DefaultTables are the cloud's list prices, by currency.
func DefaultTables() (map[string]Table, error) { return ParseTables(builtIn) }

var currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)

// ParseTables reads prices in the form of prices.yaml. The error names everything that is wrong.
func ParseTables(text []byte) (map[string]Table, error) {
	var all file
	if err := yaml.UnmarshalStrict(text, &all); err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	tables := map[string]Table{}
	var errs []error
	for _, currency := range slices.Sorted(maps.Keys(all)) {
		f := all[currency]
		if !currencyForm.MatchString(currency) {
			errs = append(errs, fmt.Errorf("%q: want a currency's three capital letters", currency))
		}
		if f.Digits == nil || *f.Digits < 0 || *f.Digits > 9 {
			errs = append(errs, fmt.Errorf("%s.digits: want 0 to 9 decimals", currency))
			continue
		}
		t := Table{Currency: currency, Digits: *f.Digits}
		var err error
		t.rates, err = parseRates(currency+".rates", f.Rates)
		errs = append(errs, err)
		t.monthly, err = parseRates(currency+".reservations", f.Reservations)
		errs = append(errs, err)
		if len(t.rates) == 0 {
			errs = append(errs, fmt.Errorf("%s.rates: none", currency))
		}
		tables[currency] = t
	}
	if len(all) == 0 {
		errs = append(errs, errors.New("no currency"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	return tables, nil
}

// parseRates reads the rates of all kinds below a key of the file.
func parseRates(key string, kinds map[string]map[string]string) (map[string]rate, error) {
	rates := map[string]rate{}
	var errs []error
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		r, err := parseRate(kinds[kind])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w", key, kind, err))
		}
		rates[kind] = r
	}
	return rates, errors.Join(errs...)
}

func parseRate(fields map[string]string) (rate, error) {
	var r rate
	var errs []error
	places := map[string]*int64{"cpu": &r.core, "memory": &r.gib, "gpu": &r.gpu}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		place, ok := places[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%q: want cpu, memory or gpu", name))
			continue
		}
		n, err := trillionths(fields[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		*place = n
	}
	for _, name := range []string{"cpu", "memory"} {
		if _, ok := fields[name]; !ok {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
	}
	return r, errors.Join(errs...)
}

var decimalForm = regexp.MustCompile(`^([0-9]{1,6})(?:\.([0-9]{1,12}))?$`)

// trillionths reads a price such as "0.00003334" without ever making it a float.
func trillionths(text string) (int64, error) {
	m := decimalForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%q: want a price such as \"0.00003334\", with at most twelve decimals", text)
	}
	var n int64
	for _, digit := range m[1] + (m[2] + "000000000000")[:12] {
		n = n*10 + int64(digit-'0')
	}
	return n, nil
}

// decimal writes what trillionths reads.
func decimal(n int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%012d", n/1e12, n%1e12), "0"), ".")
}
