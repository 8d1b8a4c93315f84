package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	charges "github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/cli/accounts"
	"github.com/nodeless/nodeless/pkg/hint"
)

func usageCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "usage",
		Usage:     "list how long Pods ran and with which spec",
		ArgsUsage: " ",
		Description: "Without --from, --to or --month: the last 24 hours and what runs. The cluster is that of KUBECONFIG or the one on this host; who\n" +
			"may see the Pods of a namespace may see what they used.",
		Flags: []cli.Flag{
			kubeconfigFlag(), namespacesFlag(),
			&cli.StringFlag{Name: "from", Usage: "what ran at this `moment` or later: 2026-11-28, or 2026-11-28T12:00:00Z"},
			&cli.StringFlag{Name: "to", Usage: "what began before this `moment`"},
			&cli.StringFlag{Name: "month", Usage: "what ran in a `month`: 2026-11"},
			formFlag("table, json, csv or prometheus"),
		},
		Action: func(c *cli.Context) error { return usage(c, s) },
	}
}

func billCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "bill",
		Usage:     "add up what Pods cost",
		ArgsUsage: " ",
		Description: "TOTAL is what is settled and does not change any more, PENDING what is not settled yet. With -o json the bills are printed\n" +
			"with all of their lines.",
		Flags: []cli.Flag{
			kubeconfigFlag(), namespacesFlag(),
			&cli.StringFlag{Name: "month", Usage: "the `month`, as in 2026-11", DefaultText: "this month, in UTC"},
			&cli.StringFlag{Name: "by", Usage: "add up by namespace, workload or day", DefaultText: "namespace"},
			formFlag("table, json or csv"),
		},
		Action: func(c *cli.Context) error { return bill(c, s) },
	}
}

func reservationCommand(s Streams) *cli.Command {
	list := &cli.Command{
		Name: "list", Usage: "list reservations", ArgsUsage: " ",
		Flags:  []cli.Flag{kubeconfigFlag(), namespacesFlag(), &cli.BoolFlag{Name: "all", Usage: "those that were refunded as well"}, formFlag("table, json or csv")},
		Action: func(c *cli.Context) error { return listReservations(c, s) },
	}
	buy := &cli.Command{
		Name: "buy", Usage: "buy a reservation: it pays, in each hour, for Pods of its spec for as long as one of them would run", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			kubeconfigFlag(),
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the `namespace` whose Pods it pays for"},
			&cli.BoolFlag{Name: "cluster", Usage: "pay for the Pods of all namespaces"},
			&cli.StringFlag{Name: "size", Usage: "the `spec`, exactly: 2C4Gi"},
			&cli.StringFlag{Name: "type", Usage: "common (Intel, then AMD), amd, or a model of GPU", DefaultText: "common"},
			&cli.IntFlag{Name: "months", Usage: "for how long: 1 to 11, 12, 24, 36, 48 or 60"},
			&cli.StringFlag{Name: "node", Usage: "pay only on this `node`"},
			&cli.BoolFlag{Name: "hold-capacity", Usage: "keep a place for a Pod of its size free"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what it would cost"},
		},
		Action: func(c *cli.Context) error { return buyReservation(c, s) },
	}
	refund := &cli.Command{
		Name: "refund", Usage: "give a reservation back", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			kubeconfigFlag(),
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the reservation's `namespace`"},
			&cli.BoolFlag{Name: "cluster", Usage: "it is one of the whole cluster"},
		},
		Action: func(c *cli.Context) error { return refundReservation(c, s) },
	}
	group := &cli.Command{
		Name: "reservation", Usage: "list, buy and give back reservations", ArgsUsage: "list|buy|refund",
		Subcommands: []*cli.Command{list, buy, refund},
		Action: func(c *cli.Context) error {
			return &hint.Error{Op: "run", On: "nodeless reservation " + c.Args().First(), Err: errors.New("there is no such command"), Do: "choose list, buy or refund"}
		},
	}
	for _, c := range group.Subcommands {
		c.OnUsageError = usageError
	}
	return group
}

func kubeconfigFlag() cli.Flag {
	return &cli.StringFlag{Name: "kubeconfig", Usage: "access to the cluster, a `file`", DefaultText: "KUBECONFIG, or the administrator's on this host"}
}

func namespacesFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "`names` parted by commas", DefaultText: "all"}
}

func formFlag(forms string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`form`: " + forms, DefaultText: "table"}
}

// nothingElse refuses arguments.
func nothingElse(c *cli.Context) error {
	if c.NArg() == 0 {
		return nil
	}
	return &hint.Error{Op: c.Command.Name, Err: fmt.Errorf("unexpected argument %q", c.Args().First()), Do: "`nodeless " + c.Command.Name + " --help` lists the flags"}
}

// connect makes a client of the cluster that the user means.
func connect(c *cli.Context) (*accounts.Client, error) {
	file := c.String("kubeconfig")
	if file == "" {
		if err := defaultKubeconfig(paths().Kubeconfig, []string{"get"}); err != nil {
			return nil, err
		}
	}
	return accounts.Connect(file)
}

func usage(c *cli.Context, s Streams) error {
	namespaces, err := accounts.Namespaces(c.String("namespace"))
	form, formErr := accounts.Form(c.String("output"), accounts.Table, accounts.JSON, accounts.CSV, accounts.Prometheus)
	fields, spanErr := accounts.Span(c.String("from"), c.String("to"), c.String("month"), time.Now())
	if err := errors.Join(nothingElse(c), err, spanErr, formErr); err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	found, err := client.Usages(c.Context, namespaces, fields)
	if err != nil {
		return err
	}
	return accounts.WriteUsages(s.Out, found, form)
}

func bill(c *cli.Context, s Streams) error {
	namespaces, err := accounts.Namespaces(c.String("namespace"))
	form, formErr := accounts.Form(c.String("output"), accounts.Table, accounts.JSON, accounts.CSV)
	month, monthErr := accounts.Month(c.String("month"), time.Now())
	by, byErr := accounts.By(c.String("by"))
	if err := errors.Join(nothingElse(c), err, monthErr, byErr, formErr); err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	found, err := client.Bills(c.Context, namespaces, month)
	if err != nil {
		return err
	}
	return accounts.WriteBills(s.Out, found, by, form)
}

func listReservations(c *cli.Context, s Streams) error {
	namespaces, err := accounts.Namespaces(c.String("namespace"))
	form, formErr := accounts.Form(c.String("output"), accounts.Table, accounts.JSON, accounts.CSV)
	if err := errors.Join(nothingElse(c), err, formErr); err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	found, err := client.Reservations(c.Context, namespaces, c.Bool("all"))
	if err != nil {
		return err
	}
	return accounts.WriteReservations(s.Out, found, form)
}

// reservationName is the one argument, and the namespace that the flags say.
func reservationName(c *cli.Context) (namespace, name string, err error) {
	what := "nodeless reservation " + c.Command.Name
	namespace, name = c.String("namespace"), c.Args().First()
	switch {
	case c.NArg() > 1:
		err = &hint.Error{Op: c.Command.Name, Err: fmt.Errorf("unexpected argument %q", c.Args().Get(1)), Do: "write flags before the name: `" + what + " [flags] NAME`"}
	case name == "":
		err = &hint.Error{Op: c.Command.Name, Err: errors.New("no reservation is named"), Do: "run `" + what + " [flags] NAME`"}
	case c.Bool("cluster") && namespace != "" && namespace != v1alpha1.ClusterNamespace:
		err = &hint.Error{Op: c.Command.Name, Err: errors.New("--cluster and --namespace are both given"), Do: "leave one out"}
	case c.Bool("cluster"):
		namespace = v1alpha1.ClusterNamespace
	case namespace == "":
		err = &hint.Error{Op: c.Command.Name, Err: errors.New("no namespace is named"), Do: "say whose Pods it is about with --namespace, or --cluster for all"}
	}
	return namespace, name, err
}

func buyReservation(c *cli.Context, s Streams) error {
	namespace, name, err := reservationName(c)
	var faults []error
	if c.String("size") == "" {
		faults = append(faults, &hint.Error{Op: "buy", Err: errors.New("no spec is named"), Do: "say which one with --size, as in --size 2C4Gi"})
	}
	if !c.IsSet("months") {
		faults = append(faults, &hint.Error{Op: "buy", Err: errors.New("no number of months is given"), Do: "say for how long with --months: 1 to 11, 12, 24, 36, 48 or 60"})
	} else if _, err := charges.TermHundredths(c.Int("months")); err != nil {
		faults = append(faults, &hint.Error{Op: "read --months", Err: err})
	}
	if err := errors.Join(append([]error{err}, faults...)...); err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	scope := v1alpha1.ScopeNamespace
	if c.Bool("cluster") {
		scope = v1alpha1.ScopeCluster
	}
	r, err := client.Buy(c.Context, &v1alpha1.Reservation{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ReservationSpec{Size: c.String("size"), Type: c.String("type"), Months: int32(c.Int("months")), Node: c.String("node"),
			HoldCapacity: c.Bool("hold-capacity"), Scope: scope},
	}, c.Bool("dry-run"))
	if err != nil {
		return err
	}
	done := "bought"
	if c.Bool("dry-run") {
		done = "would be bought"
	}
	_, err = fmt.Fprintf(s.Out, "reservation %s/%s %s: %s of type %s until %s for %s %s\n", r.Namespace, r.Name, done, r.Spec.Size, r.Spec.Type,
		r.Status.Until.UTC().Format(time.RFC3339), r.Status.Paid, r.Status.Currency)
	return err
}

func refundReservation(c *cli.Context, s Streams) error {
	namespace, name, err := reservationName(c)
	if err != nil {
		return err
	}
	client, err := connect(c)
	if err != nil {
		return err
	}
	r, err := client.Refund(c.Context, namespace, name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "reservation %s/%s refunded: %s %s of %s %s\n", r.Namespace, r.Name, r.Status.Refund, r.Status.Currency, r.Status.Paid, r.Status.Currency)
	return err
}
