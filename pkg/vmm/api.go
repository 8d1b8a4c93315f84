package vmm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/version"
)

// api maps the REST calls to the microVM.
type api struct {
	vm *vm
	// stop ends the process after the reply has been sent.
	stop func()
}

// handle answers one call.
func (a *api) handle(ctx context.Context, r request) (any, error) {
	call, ok := strings.CutPrefix(r.path, contract.APIPrefix)
	if !ok || call != "vm.add-net" {
		closeFiles(r.files)
	}
	if !ok {
		return nil, &statusError{404, fmt.Errorf("no such path: %s", r.path)}
	}
	switch r.method + " " + call {
	case "GET vmm.ping":
		return pingReply{Version: version.Version, Pid: os.Getpid()}, nil
	case "GET " + contract.CallInfo:
		return a.vm.info()
	case "GET " + contract.CallEffort: // not Kata's: our shim asks while a guest is waited for
		return a.vm.currentEffort()
	case "GET vm.counters":
		return struct{}{}, nil
	case "PUT vm.create":
		return nil, a.vm.create(r.body)
	case "PUT vm.boot":
		return nil, a.vm.boot(ctx)
	case "PUT vm.shutdown", "PUT vm.delete":
		a.vm.shutdown()
		return nil, nil
	case "PUT vmm.shutdown":
		a.stop()
		return nil, nil
	}
	return a.change(ctx, r, call)
}

// change answers the calls that alter a running microVM.
func (a *api) change(ctx context.Context, r request, call string) (any, error) {
	switch r.method + " " + call {
	case "PUT vm.add-net":
		return decoded(r, func(c netConfig) (any, error) { return a.vm.addNet(ctx, c, r.files) })
	case "PUT vm.add-disk":
		return decoded(r, func(c diskConfig) (any, error) { return a.vm.addDisk(ctx, c) })
	case "PUT vm.add-device":
		return decoded(r, func(c deviceConfig) (any, error) { return a.vm.addDevice(c) })
	case "PUT vm.remove-device":
		return decoded(r, func(c removeDevice) (any, error) { return nil, a.vm.remove(ctx, c.ID) })
	case "PUT " + contract.CallResize:
		return decoded(r, func(c contract.Resize) (any, error) { return nil, a.vm.resize(ctx, c) })
	}
	closeFiles(r.files)
	return nil, &statusError{404, fmt.Errorf("no such call: %s %s", r.method, r.path)}
}

func decoded[T any](r request, call func(T) (any, error)) (any, error) {
	var c T
	if err := json.Unmarshal(r.body, &c); err != nil {
		closeFiles(r.files)
		return nil, &statusError{400, fmt.Errorf("parse body of %s: %w", r.path, err)}
	}
	return call(c)
}
