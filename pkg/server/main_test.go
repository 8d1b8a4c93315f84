package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/price"
	"github.com/nodeless/nodeless/pkg/server"
	"github.com/nodeless/nodeless/pkg/server/apiserver"
	"github.com/nodeless/nodeless/pkg/server/apiserver/guard/defaults"
	"github.com/nodeless/nodeless/pkg/server/dns"
)

// The test binary plays three parts: the tests, the tests again inside namespaces of their own, and the server process.
const (
	insideEnv = "NODELESS_TEST_INSIDE" // set within the namespaces
	serverEnv = "NODELESS_TEST_SERVER" // folder of the server to run
	portEnv   = "NODELESS_TEST_PORT"
	// noAuditEnv leaves the audit log out when it is not empty.
	noAuditEnv = "NODELESS_TEST_NO_AUDIT"
	// injectEnv has DaemonSets added to Pods, those of the namespace that it names to all.
	injectEnv = "NODELESS_TEST_INJECT"
	// noMetricsEnv leaves the API metrics.k8s.io out when it is not empty.
	noMetricsEnv = "NODELESS_TEST_NO_METRICS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		os.Exit(serve(dir))
	}
	os.Exit(m.Run())
}

// serve is what pkg/cli does, in short.
func serve(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var level slog.LevelVar // info, or what the environment says: NODELESS_TEST_LOG=debug
	_ = level.UnmarshalText([]byte(os.Getenv("NODELESS_TEST_LOG")))
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	if err := server.Run(ctx, testConfig(dir), nil, log); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\nhint: %s\n", err, strings.Join(hint.Of(err), "; "))
		return 1
	}
	return 0
}

func testConfig(dir string) server.Config {
	port, err := strconv.Atoi(os.Getenv(portEnv))
	if err != nil {
		port = 6443
	}
	catalog, err := podsize.DefaultCatalog()
	if err != nil {
		panic(err) // it is built in
	}
	prices, err := price.DefaultTables()
	if err != nil {
		panic(err) // they are built in
	}
	var allowed rules.Settings
	if from := os.Getenv(injectEnv); from != "" {
		allowed = rules.Settings{DaemonSets: rules.PolicyInject, InjectFrom: []string{from}}
	}
	return server.Config{
		Serverless: server.Serverless{Catalog: catalog, Prices: prices["USD"], Rules: allowed},
		Data:       datadir.Dir(filepath.Join(dir, "data")), Run: datadir.RunDir(filepath.Join(dir, "run")), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		NodeName: "node1", NodeIP: netip.MustParseAddr("10.99.0.1"), Bind: netip.IPv4Unspecified(), Port: port,
		ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), NodePorts: "30000-32767", DNS: netip.MustParseAddr("10.43.0.10"),
		DNSBind: netip.MustParseAddr("10.42.0.1"), Domain: "cluster.local", NoMetrics: os.Getenv(noMetricsEnv) != "", NoAudit: os.Getenv(noAuditEnv) != "",
		Limits: apiserver.Limits{Requests: defaults.Requests, Conns: defaults.Conns},
	}
}

// inOwnHost runs the calling test again in network, mount and process namespaces of its own and reports whether
// this is that second run. There the host has the addresses 10.99.0.1 and 10.42.0.1, and no name server.
func inOwnHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) == "" {
		if os.Geteuid() != 0 {
			t.Skip("skipped: needs root to make namespaces")
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "-n", "-m", "-p", "--fork", "--mount-proc", "--kill-child",
			os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("inside:\n%s", out)
		if err != nil {
			t.Fatalf("the test failed inside: %v", err)
		}
		return false
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	for _, cidr := range []string{"10.99.0.1/24", "10.42.0.1/32"} {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(bridge, addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []netlink.Link{lo, bridge} {
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	noUpstream := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(noUpstream, []byte("# no name server\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range dns.HostResolvConf() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := syscall.Mount(noUpstream, path, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	return true
}
