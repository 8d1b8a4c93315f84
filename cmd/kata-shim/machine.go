package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	agent "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/client"
	agentapi "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"

	"github.com/nodeless/nodeless/pkg/contract"
)

// resizeTimeout is more than nodeless-vmm and the guest's agent give themselves.
const resizeTimeout = time.Minute

// vm is the microVM behind nodeless-vmm's socket and its agent's, which lie in dir.
type vm struct{ dir string }

var _ machine = vm{}

// size is what QEMU has; the guest may have taken in less.
func (v vm) size(ctx context.Context) (memory int64, vcpus int, err error) {
	var info contract.Info
	if err := v.call(ctx, http.MethodGet, contract.CallInfo, nil, &info); err != nil {
		return 0, 0, fmt.Errorf("ask for the size of the microVM: %w", err)
	}
	return info.Config.Memory.Size, info.Config.CPUs.Boot, nil
}

// resize has nodeless-vmm plug in what is missing or take back what is too much, and the guest's agent use the rest.
func (v vm) resize(ctx context.Context, memory int64, vcpus int, spec limits) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	want := contract.Resize{Memory: memory, VCPUs: vcpus, SpecCPU: spec.cpu, SpecMemory: spec.memory}
	if err := v.call(ctx, http.MethodPut, contract.CallResize, want, nil); err != nil {
		return err
	}
	return v.online(ctx, vcpus)
}

// online is a second connection to the agent: Kata keeps its own to itself.
func (v vm) online(ctx context.Context, vcpus int) error {
	client, err := agent.NewAgentClient(ctx, fmt.Sprintf("hvsock://%s:%d", filepath.Join(v.dir, contract.AgentSocket), contract.AgentPort), 0)
	if err != nil {
		return fmt.Errorf("connect to the guest's agent: %w", err)
	}
	defer client.Close()
	_, err = client.AgentServiceClient.OnlineCPUMem(ctx, &agentapi.OnlineCPUMemRequest{Wait: true, NbCpus: uint32(vcpus), CpuOnly: false})
	if err != nil {
		return fmt.Errorf("bring %d vCPUs online: %w", vcpus, err)
	}
	return nil
}

// call speaks to nodeless-vmm, whose errors are plain text for people.
func (v vm) call(ctx context.Context, method, name string, body, reply any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+contract.APIPrefix+name, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Close = true
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(v.dir, contract.APISocket))
	}}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s", strings.TrimSpace(string(text)))
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(text, reply)
}
