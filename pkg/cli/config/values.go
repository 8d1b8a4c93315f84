package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nodeless/nodeless/pkg/datadir"
)

// PortRange is an inclusive range of ports.
type PortRange struct{ Low, High int }

// String gives the form that flags and the apiserver take.
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Low, r.High) }

// Contains tells whether port is in the range.
func (r PortRange) Contains(port int) bool { return r.Low <= port && port <= r.High }

// store parses values into the field that ptr points at. The error says what is wrong with the text only.
func store(ptr any, kind Kind, values []string) error {
	if list, ok := ptr.(*[]string); ok {
		*list = values
		return nil
	}
	if list, ok := ptr.(*[]netip.Prefix); ok {
		return storeRanges(list, values)
	}
	if kind != Scalar || len(values) != 1 {
		return errors.New("takes one value, not a list")
	}
	text := strings.TrimSpace(values[0])
	switch p := ptr.(type) {
	case *string:
		*p = text
	case *datadir.Dir:
		*p = datadir.Dir(text)
	case *datadir.RunDir:
		*p = datadir.RunDir(text)
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*p = n
	case *netip.Addr:
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", text)
		}
		*p = a
	case *netip.Prefix:
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is not an address range such as 10.42.0.0/16", text)
		}
		*p = n
	case *PortRange:
		return p.parse(text)
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil && text != "0" {
			return fmt.Errorf("%q is not a time such as 30m or 1h", text)
		}
		*p = d
	case *slog.Level:
		if err := p.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%q is not one of debug, info, warn, error", text)
		}
	default:
		return fmt.Errorf("holds no known type (%T)", ptr)
	}
	return nil
}

// storeRanges takes a lone "none" for no range at all: an empty list would be the default one.
func storeRanges(list *[]netip.Prefix, values []string) error {
	*list = nil
	if len(values) == 1 && values[0] == "none" {
		return nil
	}
	for _, text := range values {
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is not an address range such as 192.0.2.0/24", text)
		}
		*list = append(*list, n)
	}
	return nil
}

func (r *PortRange) parse(text string) error {
	low, high, ok := strings.Cut(text, "-")
	l, errLow := strconv.Atoi(low)
	h, errHigh := strconv.Atoi(high)
	if !ok || errLow != nil || errHigh != nil {
		return fmt.Errorf("%q is not a port range such as 30000-32767", text)
	}
	*r = PortRange{Low: l, High: h}
	return nil
}

// split cuts text that came from the environment or from one flag into the values of a list.
func split(kind Kind, text string) []string {
	switch kind {
	case List:
		var out []string
		for _, v := range strings.Split(text, ",") {
			if v = strings.TrimSpace(v); v != "" {
				out = append(out, v)
			}
		}
		return out
	case Args:
		return strings.Fields(text)
	}
	return []string{text}
}
