package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubecli "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/nodeless/nodeless/pkg/hint"
)

func kubectlCommand(s Streams) *cli.Command {
	return &cli.Command{
		Name:            "kubectl",
		Usage:           "kubectl for the local cluster",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action:          func(c *cli.Context) error { return kubectl(s, c.Args().Slice()) },
	}
}

// kubectl is upstream's main with our kubeconfig as the default. Like upstream's it ends the process itself when a
// command fails, with kubectl's exit code.
func kubectl(s Streams, args []string) error {
	if err := defaultKubeconfig(paths().Kubeconfig, args); err != nil {
		return err
	}
	argv := append([]string{"kubectl"}, args...)
	if _, err := logs.GlogSetter(cmd.GetLogVerbosity(argv)); err != nil {
		return err
	}
	streams := genericiooptions.IOStreams{In: s.In, Out: s.Out, ErrOut: s.Err}
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     argv,
		ConfigFlags:   genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams),
		IOStreams:     streams,
	})
	command.SetArgs(args)
	if err := kubecli.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
	return nil
}

// offline are the kubectl commands that talk to no cluster.
var offline = []string{"help", "completion", "__complete", "__completeNoDesc", "kustomize", "options", "plugin", "config"}

// defaultKubeconfig points kubectl at the local cluster, unless the user has said or configured something else.
func defaultKubeconfig(file string, args []string) error {
	if os.Getenv("KUBECONFIG") != "" || elsewhere(args) {
		return nil
	}
	f, err := os.Open(file)
	if err == nil {
		return errors.Join(f.Close(), os.Setenv("KUBECONFIG", file))
	}
	if home, herr := os.UserHomeDir(); herr == nil {
		if _, serr := os.Stat(filepath.Join(home, ".kube", "config")); serr == nil {
			return nil
		}
	}
	return unreadable(file, err)
}

// unreadable says what to do about a kubeconfig that cannot be read.
func unreadable(file string, err error) error {
	do := "start a cluster with `nodeless server`, or name one with --kubeconfig or KUBECONFIG"
	if errors.Is(err, os.ErrPermission) {
		do = "use sudo, or copy the file for your user: sudo install -D -m 600 -o $USER " + file + " ~/.kube/config"
	}
	return &hint.Error{Op: "read kubeconfig", On: file, Err: cause(err), Do: do}
}

// elsewhere tells whether the arguments need no cluster or name one.
func elsewhere(args []string) bool {
	if len(args) == 0 || slices.Contains(offline, args[0]) {
		return true
	}
	for _, a := range args {
		if a == "--" {
			break
		}
		if a == "-h" || a == "--help" || a == "--client" || a == "--client=true" || a == "-s" ||
			a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") || a == "--server" || strings.HasPrefix(a, "--server=") {
			return true
		}
	}
	return false
}

// cause takes the path out of an error that names it anyway.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
