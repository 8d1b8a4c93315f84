package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
)

// loadCatalog is what Pods can be.
func loadCatalog(c config.Specs) (podsize.Catalog, error) {
	if c.Catalog == "" {
		return podsize.DefaultCatalog()
	}
	text, err := os.ReadFile(c.Catalog)
	if err != nil {
		return podsize.Catalog{}, &hint.Error{Op: "read catalog of specs", On: c.Catalog, Err: cause(err), Do: "correct the setting catalog, or leave it out for the built-in one"}
	}
	catalog, err := podsize.ParseCatalog(text)
	if err != nil {
		return podsize.Catalog{}, &hint.Error{Op: "use", On: c.Catalog, Err: err, Do: "correct the file; docs/billing.md describes it"}
	}
	return catalog, nil
}

// loadPrices is what they cost, in the currency of bills.
func loadPrices(c config.Specs) (price.Table, error) {
	tables, err := price.DefaultTables()
	if c.Prices != "" {
		text, readErr := os.ReadFile(c.Prices)
		if readErr != nil {
			return price.Table{}, &hint.Error{Op: "read prices", On: c.Prices, Err: cause(readErr), Do: "correct the setting prices, or leave it out for the built-in ones"}
		}
		if tables, err = price.ParseTables(text); err != nil {
			return price.Table{}, &hint.Error{Op: "use", On: c.Prices, Err: err, Do: "correct the file; docs/billing.md describes it"}
		}
	}
	if err != nil {
		return price.Table{}, err
	}
	table, ok := tables[c.Currency]
	if !ok {
		have := strings.Join(slices.Sorted(maps.Keys(tables)), ", ")
		return price.Table{}, &hint.Error{Op: "find prices in", On: c.Currency, Err: fmt.Errorf("there are prices in %s", have), Do: "set currency to one of these, or add it to the file of prices"}
	}
	return table, nil
}
