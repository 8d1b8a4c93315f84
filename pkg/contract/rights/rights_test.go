package rights

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const roleEnv = "NODELESS_TEST_RIGHTS"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "give up":
		if err := errors.Join(Keep(unix.CAP_KILL, unix.CAP_SETPCAP), NoNewOnes(Denied()), Keep(unix.CAP_KILL)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env, cmd.Stdout = []string{roleEnv + "=look"}, os.Stdout
		if err := errors.Join(look(), cmd.Run()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "look":
		if err := look(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// look reads what every thread of this process has, and makes a call that is denied.
func look() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		raw, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			return err
		}
		for _, want := range []string{"CapPrm:\t0000000000000020", "CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "CapInh:\t0000000000000000",
			"NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(raw), want+"\n") {
				return fmt.Errorf("a thread has not %q:\n%s", want, raw)
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_FINIT_MODULE, 0, 0, 0); errno != unix.EPERM {
		return fmt.Errorf("finit_module = %v", errno)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_SESSION_KEYRING, 1, 0, 0); err != unix.EPERM {
		return fmt.Errorf("keyctl = %v", err)
	}
	return nil
}

// TestNothingIsKeptButWhatIsNamed on any thread, nor by a program that is run: as root, that would have all again.
func TestNothingIsKeptButWhatIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root has something to give up")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleEnv + "=give up"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
