package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/nodeless/nodeless/pkg/cli/backup"
	"github.com/nodeless/nodeless/pkg/cli/config"
	"github.com/nodeless/nodeless/pkg/cli/lock"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/version"
)

func backupCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "write the cluster (database, authorities, keys, configuration) into one archive",
		ArgsUsage: "FILE",
		Description: "The server may be running. Whoever can read the archive owns the cluster, since it has every key: it is encrypted with the\n" +
			"passphrase in a file (the format is that of age), without which it can be neither read nor changed. Keep that file elsewhere:\n" +
			"without it the archive is lost. Images and the contents of volumes are not in it.",
		Flags: append(flags(config.Pick("config", "data-dir", "node-name", "datastore-endpoint")), passphraseFlag(),
			&cli.BoolFlag{Name: "unencrypted", Usage: "write it as it is, mode 0600"}),
		Action: func(c *cli.Context) error { return backUp(c, s) },
	}
}

func restoreCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "bring back the cluster of an archive, on this host or another one",
		ArgsUsage: "FILE",
		Description: "The server must not be running. Certificates are made anew for this host at the next start; if its node name is\n" +
			"another one, the old Node goes and its Pods are started here.",
		Flags: append(flags(config.Pick("config", "data-dir")),
			&cli.BoolFlag{Name: "force", Usage: "set a cluster that is in the data folder aside; nothing is deleted"},
			passphraseFlag(),
			&cli.BoolFlag{Name: "unencrypted", Usage: "read an archive that is not encrypted, and that anybody may have changed"},
			&cli.BoolFlag{Name: "with-config", Usage: "put the archive's configuration in place where this host has none; without it it is written beside"}),
		Action: func(c *cli.Context) error { return restore(c, s) },
	}
}

func passphraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "passphrase-file", Usage: "`FILE`, mode 0600, whose first line is the passphrase; - for standard input"}
}

// passphrase reads it, or gives "" if the operator wants none.
func passphrase(c *cli.Context, s Streams, what string) (string, error) {
	name := c.String("passphrase-file")
	switch {
	case name != "" && c.Bool("unencrypted"):
		return "", &hint.Error{Op: what, Err: errors.New("--passphrase-file and --unencrypted exclude each other"), Do: "give one of them"}
	case name != "":
		return backup.ReadPassphrase(name, s.In)
	}
	return "", nil
}

// archiveName is the one argument of both commands.
func archiveName(c *cli.Context, what string) (string, error) {
	if c.NArg() == 1 {
		return filepath.Abs(c.Args().First())
	}
	if c.NArg() > 1 {
		return "", &hint.Error{Op: what, Err: fmt.Errorf("unexpected argument %q", c.Args().Get(1)), Do: "write flags before the file: `nodeless " + what + " [flags] FILE`"}
	}
	return "", &hint.Error{Op: what, Err: errors.New("no file is named"), Do: "run `nodeless " + what + " FILE`, such as `nodeless " + what + " nodeless-" + time.Now().Format(time.DateOnly) + ".age`"}
}

func backUp(c *cli.Context, s Streams) (err error) {
	file, err := archiveName(c, "backup")
	if err != nil {
		return err
	}
	cfg, err := config.Load(sources(c))
	if err != nil {
		return err
	}
	if cfg.API.Datastore != "" {
		return &hint.Error{Op: "back up", On: cfg.API.Datastore, Err: errors.New("the cluster's objects are in an etcd of their own"), Do: "back that up with `etcdctl snapshot save`, and keep a copy of " + cfg.Paths.Data.TLS() + " and " + cfg.Paths.Data.Cred()}
	}
	secret, err := passphrase(c, s, "back up")
	if err != nil {
		return err
	}
	if secret == "" && !c.Bool("unencrypted") {
		return &hint.Error{Op: "back up", Err: errors.New("there is no passphrase to encrypt the archive with, which has every key of the cluster"), Do: "name a file that has one with --passphrase-file (`openssl rand -base64 24` makes one), or give --unencrypted"}
	}
	if err := mustRoot("back up"); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find host name: %w", err)
	}
	node := cfg.Node.Name
	if node == "" {
		node = config.NodeName(host)
	}
	src := backup.Source{Data: cfg.Paths.Data, ConfigFile: cfg.Paths.File, Passphrase: secret, Version: version.Version, Host: host, Node: node, Now: time.Now}
	pid, err := lock.Holder(cfg.Paths.Data.Lock())
	if err != nil {
		return err
	}
	if src.Running = pid != 0; !src.Running {
		release, heldErr := holdData(cfg.Paths)
		if heldErr != nil {
			return heldErr
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	m, err := backup.Create(c.Context, src, file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "%s: %d files of node %s at revision %d, %d KiB\n", file, len(m.Members), m.Node, m.Revision, (info.Size()+1023)/1024)
	return err
}

// holdData keeps servers off an existing data folder.
func holdData(p config.Paths) (release func() error, err error) {
	if _, err := os.Stat(string(p.Data)); err != nil {
		return nil, &hint.Error{Op: "open data dir", On: string(p.Data), Err: cause(err), Do: "name the data folder of a server with --data-dir"}
	}
	held, err := lock.Acquire(p.Data.Lock())
	if err != nil {
		return nil, err
	}
	return held.Release, nil
}

func restore(c *cli.Context, s Streams) (err error) {
	file, err := archiveName(c, "restore")
	if err != nil {
		return err
	}
	paths, err := config.LoadPaths(sources(c))
	if err != nil {
		return err
	}
	secret, err := passphrase(c, s, "restore")
	if err != nil {
		return err
	}
	if err := mustRoot("restore"); err != nil {
		return err
	}
	if err := os.MkdirAll(string(paths.Data), 0o700); err != nil {
		return &hint.Error{Op: "make data dir", On: string(paths.Data), Err: cause(err), Do: "choose a folder on a writable file system with --data-dir"}
	}
	release, err := holdData(paths)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	to := backup.Target{
		Data: paths.Data, ConfigFile: paths.File, Version: version.Version, Force: c.Bool("force"), Now: time.Now,
		Passphrase: secret, Unencrypted: c.Bool("unencrypted"), WithConfig: c.Bool("with-config"),
	}
	r, err := backup.Restore(c.Context, to, file)
	if err != nil {
		return err
	}
	m := r.Manifest
	fmt.Fprintf(s.Out, "restored the cluster of node %s, host %s, as of %s\n", m.Node, m.Host, m.Created.Format(time.RFC3339))
	if r.Aside != "" {
		fmt.Fprintf(s.Out, "the cluster that was here before is in %s\n", r.Aside)
	}
	for _, path := range r.Kept {
		fmt.Fprintf(s.Out, "not put in place, since it says what the server runs and trusts: the backup's configuration %s; read it, and rename it if it is right for this host\n", path)
	}
	_, err = fmt.Fprintln(s.Out, "start it with `systemctl start nodeless` or `nodeless server`")
	return err
}
