// Package ended has a host keep a bounded number of containers of Pods that have ended, with their logs. No limit on storage and no quota
// counts those. The kubelet has such a bound too, and takes the oldest ended containers of all: a tenant with many would have it remove one
// that has ended in a neighbour's Pod which still runs, and the kubelet runs what it has no record of once more. Here only Pods that have
// ended lose containers, and the namespace with the most of them loses first. pkg/worker runs it.
package ended

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// interval is that of the kubelet's own clearing.
	interval = time.Minute
	// patience bounds what one look may take.
	patience = 2 * time.Minute
	// namespaceLabel is how the kubelet marks containers.
	namespaceLabel = "io.kubernetes.pod.namespace"
)

// Config is what the component has to know.
type Config struct {
	Socket string // of the container runtime, as the kubelet calls it
	Most   int    // ended containers of ended Pods that the host keeps
}

// Collector is the component.
type Collector struct {
	cfg Config
	log *slog.Logger
}

var _ run.Component = (*Collector)(nil)

// New gives a component that has asked nothing yet.
func New(cfg Config, log *slog.Logger) *Collector { return &Collector{cfg: cfg, log: log} }

// Name is "ended".
func (c *Collector) Name() string { return "ended" }

// Run looks every minute until ctx ends. What cannot be removed is tried again.
func (c *Collector) Run(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+c.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to the container runtime: %w", err)
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.look(ctx, client); err != nil && ctx.Err() == nil {
			c.log.Warn("containers of ended Pods not cleared away; tried again in a minute", "error", err)
		}
	}
}

// look removes what is too much.
func (c *Collector) look(ctx context.Context, client cri.RuntimeServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	containers, err := client.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	sandboxes, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	surplus := tooMany(containers.GetContainers(), running(sandboxes.GetItems()), c.cfg.Most)
	var errs []error
	for _, id := range surplus {
		errs = append(errs, remove(ctx, client, id))
	}
	if len(surplus) > 0 {
		c.log.Info("removed containers of ended Pods, with their logs: the host had more than it keeps", "removed", len(surplus), "kept", c.cfg.Most)
	}
	return errors.Join(errs...)
}

// running are the ids of sandboxes in which something may run, or run again.
func running(sandboxes []*cri.PodSandbox) map[string]bool {
	ids := map[string]bool{}
	for _, s := range sandboxes {
		if s.GetState() == cri.PodSandboxState_SANDBOX_READY {
			ids[s.GetId()] = true
		}
	}
	return ids
}

// tooMany chooses among containers that have ended, in sandboxes that have, until most are left: the oldest of the namespace with the most.
func tooMany(containers []*cri.Container, running map[string]bool, most int) (ids []string) {
	of, n := map[string][]*cri.Container{}, 0
	for _, c := range containers {
		if c.GetState() == cri.ContainerState_CONTAINER_EXITED && !running[c.GetPodSandboxId()] {
			of[c.GetLabels()[namespaceLabel]] = append(of[c.GetLabels()[namespaceLabel]], c)
			n++
		}
	}
	for _, list := range of {
		slices.SortFunc(list, func(a, b *cri.Container) int { return cmp.Compare(a.GetCreatedAt(), b.GetCreatedAt()) })
	}
	namespaces := slices.Sorted(maps.Keys(of))
	for ; n > most; n-- {
		largest := slices.MaxFunc(namespaces, func(a, b string) int { return cmp.Compare(len(of[a]), len(of[b])) })
		ids = append(ids, of[largest][0].GetId())
		of[largest] = of[largest][1:]
	}
	return ids
}

// remove removes a container and its logs. That one of them is gone already is no fault.
func remove(ctx context.Context, client cri.RuntimeServiceClient, id string) error {
	was, err := client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for container %s: %w", id, err)
	}
	if _, err := client.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return removeLogs(was.GetStatus().GetLogPath())
}

// removeLogs removes a log and what the kubelet has made of it when it was large: FILE.DATE and FILE.DATE.gz.
func removeLogs(path string) error {
	if path == "" {
		return nil
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, f := range files {
		if f.Name() == filepath.Base(path) || strings.HasPrefix(f.Name(), filepath.Base(path)+".") {
			if err := os.Remove(filepath.Join(filepath.Dir(path), f.Name())); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
