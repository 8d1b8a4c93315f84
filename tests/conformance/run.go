package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeless/nodeless/tests/testbed"
)

// options are those of the command line.
type options struct {
	dist, program, list, state string
	group, only, sizing, json  string
	limit                      time.Duration
	procs                      int
	smoke, small               bool
}

// serverFlags are those of the server that is tested.
func (o options) serverFlags() []string {
	flags := []string{"--daemonsets=run", "--sizing=" + o.sizing}
	if o.smoke { // one test waits for a compaction, and takes ten minutes with the usual five between two
		flags = append(flags, "--kube-apiserver-arg=etcd-compaction-interval=1m")
	}
	if o.sizing == native {
		flags = append(flags, "--host-port=allow")
	}
	return flags
}

// chosen are the tests of a run, by group.
func (o options) chosen(names []string) (byGroup map[string][]string, all []string, err error) {
	if o.group != "all" && !slices.Contains(groups, o.group) {
		return nil, nil, fmt.Errorf("group %q: choose of all, %s", o.group, strings.Join(groups, ", "))
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return nil, nil, fmt.Errorf("pattern of names: %w", err)
	}
	smoke := lines(smokeTests)
	byGroup = map[string][]string{}
	for _, name := range names {
		group := groupOf(name)
		switch {
		case !only.MatchString(name):
			continue
		case o.group == "all" || o.group == group:
		case o.smoke && slices.Contains(smoke, name):
			group = o.group // beside the group's own
		default:
			continue
		}
		byGroup[group], all = append(byGroup[group], name), append(all, name)
	}
	return byGroup, all, nil
}

func (o options) run(ctx context.Context) error {
	names, err := readList(o.list)
	if err != nil {
		return err
	}
	table, err := readKnown(knownTable)
	if err != nil {
		return err
	}
	why := causes(table, o.sizing)
	byGroup, all, err := o.chosen(names)
	if err != nil {
		return err
	}
	have, err := loadVerdicts(o.state, o.sizing)
	if err != nil {
		return err
	}
	if err := o.runGroups(ctx, undone(byGroup, have, why), have, why); err != nil {
		return err
	}
	printTable(os.Stdout, names, have, why)
	if err := o.writeJSON(all, have, why); err != nil {
		return err
	}
	if t := count(all, have, why); len(t.unknown) > 0 {
		return fmt.Errorf("%d tests failed that are not in tests/conformance/testdata/known.tsv", len(t.unknown))
	} else if t.missing > 0 && ctx.Err() == nil {
		return fmt.Errorf("%d tests were not run; run the same again to go on", t.missing)
	}
	return ctx.Err()
}

func (o options) writeJSON(all []string, have verdicts, why map[string]string) error {
	if o.json == "" {
		return nil
	}
	f, err := os.Create(o.json)
	if err != nil {
		return err
	}
	return errors.Join(writeEvents(f, all, have, why), f.Close())
}

// undone are the tests that have neither passed nor failed for a cause that is known.
func undone(byGroup map[string][]string, have verdicts, why map[string]string) map[string][]string {
	left := map[string][]string{}
	for group, names := range byGroup {
		for _, n := range names {
			if v, ran := have[n]; !ran || !v.Passed && why[n] == "" {
				left[group] = append(left[group], n)
			}
		}
	}
	return left
}

// runGroups runs tests on one server.
func (o options) runGroups(ctx context.Context, byGroup map[string][]string, have verdicts, why map[string]string) (err error) {
	if len(byGroup) == 0 {
		return nil
	}
	c, err := startCluster(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for _, group := range groups {
		if len(byGroup[group]) == 0 || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		fmt.Printf("== %s: %d tests\n", group, len(byGroup[group]))
		err := c.runGroup(ctx, group, byGroup[group], have)
		if failed := failing(byGroup[group], have, why); err == nil && len(failed) > 0 && len(failed) <= mostAgain && ctx.Err() == nil {
			err = c.runAgain(ctx, group, failed, have)
		}
		if err := errors.Join(err, have.save(o.state, o.sizing)); err != nil {
			return err
		}
		fmt.Printf("== %s: took %s\n", group, time.Since(began).Round(time.Second))
	}
	return nil
}

// runGroup runs a group's tests, those that only wait beside the others.
func (c *cluster) runGroup(ctx context.Context, group string, names []string, have verdicts) error {
	var waiting, others []string
	for _, n := range names {
		if isSlow(n) {
			waiting = append(waiting, n)
		} else {
			others = append(others, n)
		}
	}
	var both errgroup.Group
	var reports [2]string
	for i, part := range [][]string{others, waiting} {
		if len(part) == 0 {
			continue
		}
		reports[i] = filepath.Join(c.o.state, c.o.sizing+"-"+group+[]string{"", "-slow"}[i])
		procs := min(c.o.procs, len(part))
		both.Go(func() error { return c.ginkgo(ctx, reports[i], procs, part) })
	}
	err := both.Wait()
	for _, dir := range reports {
		if dir != "" {
			err = errors.Join(err, have.take(filepath.Join(dir, "report.json"), c.build))
		}
	}
	return err
}

// mostAgain is how many tests of a group may fail for want of time. More of them have another cause.
const mostAgain = 3

// failing are the tests that failed for no known cause.
func failing(names []string, have verdicts, why map[string]string) []string {
	return count(names, have, why).unknown
}

// runAgain runs tests that failed once more, one at a time with nothing beside them: upstream's allow half a minute for what a busy
// machine does later. The verdict says so.
func (c *cluster) runAgain(ctx context.Context, group string, names []string, have verdicts) error {
	dir := filepath.Join(c.o.state, c.o.sizing+"-"+group+"-again")
	if err := c.ginkgo(ctx, dir, 1, names); err != nil {
		return err
	}
	second := verdicts{}
	if err := second.take(filepath.Join(dir, "report.json"), c.build); err != nil {
		return err
	}
	have.takeAgain(second)
	return nil
}

// ginkgo runs tests by name and leaves report.json and log in a folder. That tests fail is no error.
func (c *cluster) ginkgo(ctx context.Context, dir string, procs int, names []string) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	bin := filepath.Join(c.o.dist, "bin")
	cmd := c.host.Command(ctx, filepath.Join(bin, "ginkgo"), "-procs="+strconv.Itoa(procs), "--timeout="+c.o.limit.String(), "--grace-period=20s", "--no-color", "-v", "--keep-going",
		"--focus="+focus(names), "--json-report=report.json", "--output-dir="+dir, filepath.Join(bin, "e2e.test"), "--",
		"--kubeconfig="+c.kubeconfig, "--provider=skeleton", "--kubectl-path="+filepath.Join(bin, "kubectl"), "--report-dir="+dir, "--disable-log-dump")
	cmd.Env = []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return c.interrupt(cmd.Process.Pid) }
	cmd.WaitDelay = 2 * time.Minute
	err = cmd.Run()
	var exit *exec.ExitError
	if _, missing := os.Stat(filepath.Join(dir, "report.json")); err != nil && (missing != nil || !errors.As(err, &exit)) {
		return fmt.Errorf("run ginkgo (its log is %s): %w", log.Name(), err)
	}
	return nil
}

// interrupt has Ginkgo write its report and end. A first signal does nothing for minutes.
func (c *cluster) interrupt(group int) error {
	err := syscall.Kill(-group, syscall.SIGTERM)
	time.AfterFunc(2*time.Second, func() {
		_ = syscall.Kill(-group, syscall.SIGTERM) // it may have ended
	})
	return err
}

// focus fits the names and nothing else. Ginkgo puts the suite's name before a test's.
func focus(names []string) string {
	var all []string
	for _, n := range names {
		all = append(all, regexp.QuoteMeta(n))
	}
	return "suite (" + strings.Join(all, "|") + ")$"
}

// cluster is a server in a test host.
type cluster struct {
	o          options
	host       *testbed.Host
	server     *testbed.Server
	registry   interface{ Close() error }
	kubeconfig string
	build      string // of the product
}

func startCluster(ctx context.Context, o options) (c *cluster, err error) {
	c = &cluster{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.host, err = testbed.New(testbed.Options{Program: o.program}); err != nil {
		return c, err
	}
	if c.build, err = buildOf(c.host.Program); err != nil {
		return c, err
	}
	if err := os.MkdirAll(filepath.Join(c.host.Root, "data/agent/images"), 0o755); err != nil {
		return c, err
	}
	archive := filepath.Join(o.dist, "images", "conformance.tar")
	if err := copyFile(archive, filepath.Join(c.host.Root, "data/agent/images/conformance.tar")); err != nil {
		return c, err
	}
	parts := parts{bin: filepath.Join(o.dist, "bin"), base: filepath.Join(o.dist, "images", "base.tar"), sources: o.sources()}
	if c.registry, err = serve(c.host, parts); err != nil {
		return c, err
	}
	if c.server, err = c.host.StartServer(o.serverFlags()...); err != nil {
		return c, err
	}
	wait, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := c.server.UntilNodeReady(wait); err != nil {
		return c, err
	}
	if err := raiseShare("/sys/fs/cgroup", c.host.Cgroup); err != nil {
		return c, err
	}
	c.kubeconfig = "/etc/nodeless/kubeconfig"
	manifest := opened
	if o.small {
		manifest += smallest
	}
	return c, c.server.Until(wait, "accounts may what tests have controllers do", func(ctx context.Context) (bool, error) {
		err := c.host.Apply(ctx, manifest)
		return err == nil, err
	})
}

// opened gives all accounts the right to name the node of a Pod (docs/annotations.md), since one test has a StatefulSet do so.
// Another has a ReplicaSet make Pods of a class above 0.
const opened = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: conformance-opened}
rules:
- {apiGroups: [""], resources: [pods/binding], verbs: [create]}
- {apiGroups: [scheduling.k8s.io], resources: [priorityclasses], verbs: [use]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: conformance-opened}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: conformance-opened}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts"}
`

// smallest has every Pod be of the smallest spec.
const smallest = `---
apiVersion: v1
kind: ConfigMap
metadata: {name: eks-config, namespace: kube-system}
data:
  pod.annotations: |
    eks.tke.cloud.tencent.com/cpu: "0.25"
    eks.tke.cloud.tencent.com/mem: 0.5Gi
`

func (c *cluster) close() error {
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Stop())
		if log, err := os.ReadFile(c.server.Log); err == nil {
			errs = append(errs, os.WriteFile(filepath.Join(c.o.state, c.o.sizing+"-server.log"), log, 0o644))
		}
	}
	if c.registry != nil {
		errs = append(errs, c.registry.Close())
	}
	if c.host != nil {
		errs = append(errs, c.host.Close())
	}
	return errors.Join(errs...)
}
