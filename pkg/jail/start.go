package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Argument is the first argument of a program that is to be the second stage: its main calls Main with the arguments behind it, before it
// does anything else.
const Argument = "enter-jail"

// Self is this program, even when its file has been replaced.
const Self = "/proc/self/exe"

// longestWord bounds what the second stage may say of what went wrong.
const longestWord = 4 << 10

// errRefused says that the host does not let the jail be made. Nothing is started without one.
var errRefused = errors.New("the host refuses")

// Start starts the program of the plan in its jail, by way of second, a program that calls Main. Of cmd it takes the files and the streams;
// cmd is as after exec.Cmd.Start when it succeeds. The program is killed when the calling thread ends, so that has to be locked to its
// goroutine. On error nothing runs.
func Start(second string, cmd *exec.Cmd, p Plan) error {
	if err := p.validate(); err != nil {
		return err
	}
	plan, err := json.Marshal(onWire{Plan: p, Files: len(cmd.ExtraFiles)})
	if err != nil {
		return fmt.Errorf("write down the plan of a jail: %w", err)
	}
	near, far, err := socketPair()
	if err != nil {
		return err
	}
	defer near.Close()
	// The second stage bears the program's own arguments as well: whoever looks for processes by them finds it.
	cmd.Path = second
	cmd.Args = append([]string{"jail", Argument, strconv.Itoa(firstFile + len(cmd.ExtraFiles))}, p.Argv...)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.ExtraFiles = append(cmd.ExtraFiles[:len(cmd.ExtraFiles):len(cmd.ExtraFiles)], far)
	// Who dies before the signal is set sends none. The second stage finds that its socket has been closed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: Namespaces, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	_ = far.Close() // the second stage has its own
	if err != nil {
		return refusal("by "+second, err)
	}
	if err := command(near, plan); err != nil {
		_ = cmd.Process.Kill() // fails only when it has ended
		_ = cmd.Wait()         // how it ended says less
		return err
	}
	return nil
}

// onWire is how the plan travels.
type onWire struct {
	Plan
	Files int
}

// command tells the second stage its plan. It says nothing and closes its end when it becomes the program.
func command(near *os.File, plan []byte) error {
	_, sent := near.Write(plan)
	word, err := io.ReadAll(io.LimitReader(near, longestWord))
	switch {
	case len(word) > 0:
		err := errors.New(strings.ToValidUTF8(string(word), "?"))
		if strings.Contains(err.Error(), unix.EPERM.Error()) {
			return refusal("", err)
		}
		return fmt.Errorf("enter the jail: %w", err)
	case sent != nil || err != nil:
		return fmt.Errorf("enter the jail: %w", errors.Join(sent, err))
	}
	return nil
}

// refusal is the error of a host on which the jail cannot be made.
func refusal(how string, err error) error {
	return &hint.Error{Op: "enter the jail", On: how, Err: fmt.Errorf("%w: %w", errRefused, err),
		Do: "run nodeless as root on the host itself, or in a container started with --privileged; sysctl user.max_{mnt,pid,net,ipc,uts,cgroup}_namespaces must allow more namespaces"}
}

func socketPair() (near, far *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(pair[0]), "jail"), os.NewFile(uintptr(pair[1]), "jail"), nil
}
