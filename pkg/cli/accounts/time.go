package accounts

import (
	"errors"
	"fmt"
	"time"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/hint"
)

const monthForm = "2006-01"

// Month reads a month, by default the present one.
func Month(text string, now time.Time) (string, error) {
	if text == "" {
		return now.UTC().Format(monthForm), nil
	}
	if t, err := time.Parse(monthForm, text); err != nil || t.Format(monthForm) != text {
		return "", &hint.Error{Op: "read --month", Err: fmt.Errorf("%q is no month", text), Do: "write it as in --month 2026-11"}
	}
	return text, nil
}

// Span is the field selector of usages for a time that was named; none is empty.
func Span(from, to, month string, now time.Time) (string, error) {
	if month != "" {
		if from != "" || to != "" {
			return "", &hint.Error{Op: "read flags", Err: errors.New("--month and --from or --to are both given"), Do: "leave one out"}
		}
		m, err := Month(month, now)
		return v1alpha1.PeriodField + "=" + m, err
	}
	if from == "" && to == "" {
		return "", nil
	}
	begin, err := moment("--from", from)
	if err != nil {
		return "", err
	}
	end, err := moment("--to", to)
	if err != nil {
		return "", err
	}
	if from != "" && to != "" && !begin.Before(end) {
		return "", &hint.Error{Op: "read flags", Err: fmt.Errorf("--from %s is not before --to %s", from, to), Do: "give --from the earlier of the two"}
	}
	text := func(given string, t time.Time) string {
		if given == "" {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	return v1alpha1.Between(text(from, begin), text(to, end)).String(), nil
}

// moment reads a day, which begins at midnight in UTC, or a moment.
func moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &hint.Error{Op: "read " + flag, Err: fmt.Errorf("%q is not a time", text), Do: "write a day, as in " + flag + " 2026-11-28, or a time, as in " + flag + " 2026-11-28T12:00:00Z"}
}
