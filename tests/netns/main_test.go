// Package netns_test runs the host network and the CNI plugin for real, in network namespaces of its own:
// nothing of the machine's network is touched. It needs root, iptables and nft.
package netns_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/cni"
)

const insideEnv = "NODELESS_NETNS_TEST"

// TestMain has three lives: the CNI plugin, when libcni starts it; the outer process, which makes the namespaces;
// and the inner one, which runs the tests.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("CNI_COMMAND") != "":
		runtime.LockOSThread()
		skel.PluginMainFuncs(cni.Funcs(), cniversion.All, "nodeless under test")
		os.Exit(0)
	case os.Getenv(insideEnv) != "":
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	default:
		os.Exit(runInside())
	}
}

func runInside() int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: network namespaces need root")
		return 0
	}
	for _, program := range []string{"iptables", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Printf("skipped: no %s in PATH (packages iptables and nftables)\n", program)
			return 0
		}
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start in own namespaces:", err)
		return 1
	}
	return 0
}

// prepare gives the namespaces a loopback device, a private /run, and a /sys and /proc/sys that belong to them.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
