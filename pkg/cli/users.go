package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/users"
)

func userCommand(s Streams) *cli.Command {
	commands := []*cli.Command{
		{
			Name:      "create",
			Usage:     "make a user and write its kubeconfig",
			ArgsUsage: "NAME",
			Description: "A tenant (--namespaces) does its whole work in its namespaces and sees nothing of others or of hosts. An operator (--operator)\n" +
				"runs the cluster and sees all of it but Secrets. An administrator (--admin) may do everything. docs/users.md says what they can do,\n" +
				"and what the quota of a new namespace is.",
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "namespaces", Usage: "`NAMES` that the user works in, comma-separated; those that do not exist are made"},
				&cli.BoolFlag{Name: "join", Usage: "namespaces that exist already may be used, with all that is in them"},
				&cli.StringSliceFlag{Name: "quota", Usage: "`NAME=AMOUNT` in the quota of a namespace in place of the default, comma-separated; none for no quota"},
				&cli.StringFlag{Name: "max-claim", Usage: "`SIZE` that one PersistentVolumeClaim may have, or none", Value: "1Ti"},
				&cli.BoolFlag{Name: "operator", Usage: "an operator of the cluster"},
				&cli.BoolFlag{Name: "admin", Usage: "an administrator of the cluster, who may do everything"},
				&cli.IntFlag{Name: "days", Usage: "`DAYS` that the kubeconfig is valid for, up to 365", Value: 365},
				&cli.StringFlag{Name: "kubeconfig-out", Usage: "`FILE` to write, or - for standard output", DefaultText: "./NAME.kubeconfig"},
				&cli.StringFlag{Name: "server", Usage: "`URL` by which the user reaches the apiserver", DefaultText: "that of the host"},
				adminFlag(),
			},
			Action: func(c *cli.Context) error { return createUser(c, s) },
		},
		{
			Name:      "list",
			Usage:     "list the users",
			ArgsUsage: " ",
			Flags:     []cli.Flag{adminFlag()},
			Action:    func(c *cli.Context) error { return listUsers(c, s) },
		},
		{
			Name:        "delete",
			Usage:       "take every right from a user; its kubeconfig is of no use from then on",
			ArgsUsage:   "NAME",
			Description: "Its namespaces, and what runs in them, stay.",
			Flags:       []cli.Flag{adminFlag()},
			Action:      func(c *cli.Context) error { return deleteUser(c, s) },
		},
	}
	for _, cmd := range commands {
		anyOrder(cmd)
	}
	return &cli.Command{
		Name:        "user",
		Usage:       "make, list and delete the cluster's users: tenants and operators",
		ArgsUsage:   "create|list|delete",
		Subcommands: commands,
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return cli.ShowSubcommandHelp(c)
			}
			return noSuchCommand("nodeless user", c.Args().First(), commands)
		},
	}
}

func adminFlag() cli.Flag {
	return &cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` of an administrator", DefaultText: "KUBECONFIG, or that of the server on this host"}
}

func createUser(c *cli.Context, s Streams) error {
	name, err := userName(c, "create")
	if err != nil {
		return err
	}
	days := min(max(c.Int("days"), 0), 1e4) // more would not fit a duration
	request := users.Request{
		Name: name, Namespaces: names(c.StringSlice("namespaces")), Join: c.Bool("join"),
		Operator: c.Bool("operator"), Admin: c.Bool("admin"), Life: time.Duration(days) * 24 * time.Hour,
	}
	bounds, berr := userBounds(c)
	request.Bounds = &bounds
	if err := errors.Join(request.Validate(), berr, validServer(c.String("server"))); err != nil {
		return err
	}
	out, err := outFile(c.String("kubeconfig-out"), name)
	if err != nil {
		return err
	}
	keeper, admin, err := userKeeper(c)
	if err != nil {
		return err
	}
	server, err := userServer(c, keeper, admin)
	if err != nil {
		return err
	}
	grant, err := keeper.Create(c.Context, request)
	if err != nil {
		return err
	}
	if err := handOver(s, out, grant, server, admin.CAData); err != nil {
		return errors.Join(err, keeper.Undo(c.Context, grant))
	}
	report := s.Out
	if out == "-" {
		report = s.Err
	}
	for _, ns := range grant.Made {
		fmt.Fprintf(report, "namespace %s was made\n", ns)
	}
	for _, ns := range grant.Bounded {
		fmt.Fprintf(report, "namespace %s has a quota: `nodeless kubectl -n %s describe quota` shows it\n", ns, ns)
	}
	_, err = fmt.Fprintf(report, "%s is %s until %s; the kubeconfig is %s\n", name, duties(grant.User), grant.Expires.Local().Format(time.DateOnly), where(out))
	return err
}

// userBounds is what the namespaces of a new user may hold.
func userBounds(c *cli.Context) (users.Bounds, error) {
	bounds, err := users.DefaultBounds().WithQuota(names(c.StringSlice("quota")))
	bounds, claimErr := bounds.WithMaxClaim(c.String("max-claim"))
	return bounds, errors.Join(err, claimErr)
}

// handOver writes the kubeconfig of a new user.
func handOver(s Streams, out string, g users.Grant, server string, ca []byte) error {
	who := kube.Identity{Server: server, CA: ca, Cert: g.Cert, Key: g.Key, User: g.Name}
	if len(g.Namespaces) > 0 {
		who.Namespace = g.Namespaces[0]
	}
	text, err := who.Kubeconfig()
	if err != nil {
		return err
	}
	if out == "-" {
		_, err = s.Out.Write(text)
		return err
	}
	if err := atomicfile.Write(out, text, 0o600); err != nil {
		return &hint.Error{Op: "write kubeconfig", On: out, Err: cause(err), Do: "choose a writable place with --kubeconfig-out; the user was not made"}
	}
	return nil
}

func listUsers(c *cli.Context, s Streams) error {
	if c.Args().Present() {
		return &hint.Error{Op: "list users", Err: fmt.Errorf("unexpected argument %q", c.Args().First()), Do: "leave it out: `nodeless user list` takes no arguments"}
	}
	keeper, _, err := userKeeper(c)
	if err != nil {
		return err
	}
	list, err := keeper.List(c.Context)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tNAMESPACES\tCREATED\tEXPIRES")
	for _, u := range list {
		role := "tenant"
		switch {
		case u.Admin:
			role = "administrator"
		case u.Operator:
			role = "operator"
		}
		spaces := strings.Join(u.Namespaces, ",")
		if spaces == "" {
			spaces = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Name, role, spaces, u.Created.Local().Format(time.DateOnly), u.Expires.Local().Format(time.DateOnly))
	}
	return w.Flush()
}

func deleteUser(c *cli.Context, s Streams) error {
	name, err := userName(c, "delete")
	if err != nil {
		return err
	}
	keeper, _, err := userKeeper(c)
	if err != nil {
		return err
	}
	gone, err := keeper.Delete(c.Context, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%s has no rights any longer\n", name)
	if len(gone.Namespaces) > 0 {
		fmt.Fprintf(s.Out, "what is in %s stays\n", strings.Join(gone.Namespaces, ", "))
	}
	for _, binding := range gone.Left {
		fmt.Fprintf(s.Out, "look at RoleBinding %s: it gives rights to others, such as a ServiceAccount that the user may have a token of\n", binding)
	}
	return nil
}

// userName is the one argument of create and delete.
func userName(c *cli.Context, what string) (string, error) {
	switch c.NArg() {
	case 0:
		return "", &hint.Error{Op: what + " user", Err: errors.New("no name is given"), Do: "run `nodeless user " + what + " NAME`"}
	case 1:
		return c.Args().First(), nil
	}
	return "", &hint.Error{Op: what + " user", On: c.Args().First(), Err: fmt.Errorf("unexpected argument %q", c.Args().Get(1)), Do: "name one user; separate namespaces by commas without blanks"}
}

// names takes lists apart.
func names(lists []string) []string {
	var out []string
	for _, list := range lists {
		for _, name := range strings.Split(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				out = append(out, name)
			}
		}
	}
	return out
}

// outFile is where the kubeconfig goes. What is there already may be the only copy of somebody's key.
func outFile(asked, name string) (string, error) {
	if asked == "-" {
		return asked, nil
	}
	if asked == "" {
		asked = name + ".kubeconfig"
	}
	if _, err := os.Lstat(asked); err == nil {
		return "", &hint.Error{Op: "write kubeconfig", On: asked, Err: os.ErrExist, Do: "remove it, or choose another place with --kubeconfig-out"}
	}
	if _, err := os.Stat(filepath.Dir(asked)); err != nil {
		return "", &hint.Error{Op: "write kubeconfig", On: asked, Err: err, Do: "make the folder, or choose another place with --kubeconfig-out"}
	}
	return asked, nil
}

func where(out string) string {
	if out == "-" {
		return "on standard output"
	}
	return out
}

// duties puts what a user can do into words.
func duties(u users.User) string {
	var out []string
	if u.Admin {
		out = append(out, "an administrator")
	}
	if u.Operator {
		out = append(out, "an operator")
	}
	if len(u.Namespaces) > 0 {
		out = append(out, "a tenant of "+strings.Join(u.Namespaces, ", "))
	}
	return strings.Join(out, " and ")
}

func validServer(server string) error {
	if server == "" {
		return nil
	}
	u, err := url.Parse(server)
	if err == nil && u.Scheme == "https" && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && strings.Trim(u.Path, "/") == "" {
		return nil
	}
	return &hint.Error{Op: "use server", On: server, Err: errors.New("it is not the address of an apiserver"), Do: "write it as https://HOST:6443; HOST must be among the server's addresses or its --tls-san"}
}

// userServer is the address in the kubeconfig: the one asked for, else the administrator's, unless only this host can use that.
func userServer(c *cli.Context, keeper *users.Keeper, admin *rest.Config) (string, error) {
	if asked := c.String("server"); asked != "" {
		return strings.TrimRight(asked, "/"), nil
	}
	u, err := url.Parse(admin.Host)
	if err != nil || u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost" && u.Hostname() != "::1" {
		return admin.Host, err
	}
	return keeper.Server(c.Context)
}

// userKeeper acts with an administrator's kubeconfig, which it gives too, with the content of the files it names.
func userKeeper(c *cli.Context) (*users.Keeper, *rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.String("kubeconfig")}
	if env := os.Getenv("KUBECONFIG"); rules.ExplicitPath == "" && env != "" {
		rules.Precedence = filepath.SplitList(env)
	} else if rules.ExplicitPath == "" {
		rules.ExplicitPath = paths().Kubeconfig
	}
	if file := rules.ExplicitPath; file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, nil, unreadable(file, err)
		}
		if err := f.Close(); err != nil {
			return nil, nil, err
		}
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err == nil {
		err = rest.LoadTLSFiles(cfg)
	}
	if err != nil {
		return nil, nil, &hint.Error{Op: "use kubeconfig", Err: err, Do: "name an administrator's kubeconfig with --kubeconfig"}
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("make client of the apiserver: %w", err)
	}
	return users.New(client), cfg, nil
}
