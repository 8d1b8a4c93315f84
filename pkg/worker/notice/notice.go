// Package notice tells people what a host does to their Pods beside what the kubelet tells. Events on a Pod say that it fills the host's
// disk and has to wait (pkg/vmm), or that it waits for other microVMs to boot. A condition of the Node says that microVMs are emulated.
// pkg/worker runs the component once the Node exists. It reads files that nodeless-vmm writes, and sends what it reads with the kubelet's
// identity.
package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/vmm"
)

const (
	// interval is how often the files are read, and nodeInterval how often the Node is.
	interval     = 2 * time.Second
	nodeInterval = time.Minute
	// quiet is the least time between two events of one microVM: a guest may fill and free its disk as often as it likes.
	quiet = time.Minute
)

// Emulated is the condition of a Node whose microVMs run without hardware virtualization.
const Emulated corev1.NodeConditionType = "Emulated"

// Config says whose word is sent where.
type Config struct {
	Kubeconfig string // the kubelet's
	NodeName   string
	VMDir      string // a folder for each sandbox
	VMMConfig  string // the file of pkg/worker/vmmconfig

	Boots func() []vmm.Boot // the Pods whose microVMs boot or wait for their turn
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	for what, value := range map[string]string{"kubeconfig": c.Kubeconfig, "node name": c.NodeName, "folder of microVMs": c.VMDir, "configuration of microVMs": c.VMMConfig} {
		if value == "" {
			errs = append(errs, fmt.Errorf("notice: no %s", what))
		}
	}
	if c.Boots == nil {
		errs = append(errs, errors.New("notice: nobody to ask for boots"))
	}
	return errors.Join(errs...)
}

// Notice is the component.
type Notice struct {
	cfg    Config
	log    *slog.Logger
	teller kube.Teller // of boots
}

var _ run.Component = (*Notice)(nil)

// New gives a component that has told nothing yet.
func New(cfg Config, log *slog.Logger) *Notice {
	return &Notice{cfg: cfg, log: log, teller: kube.NewTeller()}
}

// Name is "notice".
func (n *Notice) Name() string { return "notice" }

// Run tells until ctx ends. What cannot be told now is told later.
func (n *Notice) Run(ctx context.Context) error {
	if err := n.cfg.Validate(); err != nil {
		return err
	}
	host, err := vmm.LoadHostConfig(n.cfg.VMMConfig)
	if err != nil {
		return err
	}
	rest, err := kube.FromKubeconfig(n.cfg.Kubeconfig)
	if err != nil {
		return err
	}
	rest.UserAgent = "nodeless-notice"
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("make client for %s: %w", n.cfg.Kubeconfig, err)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	told := map[string]told{}
	var looked time.Time
	for {
		now := time.Now()
		if now.Sub(looked) >= nodeInterval {
			looked = now
			if err := n.describe(ctx, client, host.Accel, now); err != nil {
				n.log.Warn("the Node's condition Emulated is not up to date", "error", err)
			}
		}
		if err := n.tell(ctx, client, told, now); err != nil && ctx.Err() == nil {
			n.log.Warn("an event about a held Pod could not be sent yet", "error", err)
		}
		if err := n.tellBoots(ctx, client, time.Now()); err != nil && ctx.Err() == nil {
			n.log.Warn("an event about a Pod that waits for its microVM could not be sent yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// told is what was said last of a microVM.
type told struct {
	times int
	held  bool
	at    time.Time
}

// news tells whether there is something to say now that was not said.
func (t told) news(h vmm.Held, now time.Time) bool {
	return (t.times != h.Times || t.held != h.Held) && (t.at.IsZero() || now.Sub(t.at) >= quiet)
}

// tell says of each microVM whether its Pod is held, unless that was said.
func (n *Notice) tell(ctx context.Context, client kubernetes.Interface, before map[string]told, now time.Time) error {
	files, err := filepath.Glob(filepath.Join(n.cfg.VMDir, "*", contract.HeldFile))
	if err != nil {
		return fmt.Errorf("look for held Pods: %w", err)
	}
	there := map[string]bool{}
	var errs []error
	for _, file := range files {
		dir := filepath.Dir(file)
		id := filepath.Base(dir)
		there[id] = true
		held, err := vmm.ReadHeld(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // it has just ended
				errs = append(errs, err)
			}
			continue
		}
		if !before[id].news(held, now) {
			continue
		}
		if err := n.say(ctx, client, id, held, now); err != nil {
			errs = append(errs, err)
			continue
		}
		before[id] = told{times: held.Times, held: held.Held, at: now}
	}
	for id := range before {
		if !there[id] {
			delete(before, id)
		}
	}
	return errors.Join(errs...)
}

func (n *Notice) say(ctx context.Context, client kubernetes.Interface, id string, held vmm.Held, now time.Time) error {
	note := noteOf(id, held)
	n.log.Warn("a Pod fills the host's disk", "namespace", held.Namespace, "pod", held.Name, "held", held.Held, "free", held.Free, "reserve", held.Reserve)
	if held.Namespace == "" || held.Name == "" {
		return nil // nobody's
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: held.Namespace, Name: held.Name, UID: types.UID(held.UID)}}
	return kube.Tell(ctx, client, pod, note, now)
}

// noteOf is the event.
func noteOf(id string, h vmm.Held) kube.Note {
	mark := fmt.Sprintf("disk.%s.%d", id[:min(len(id), 8)], h.Times)
	const mib = 1 << 20
	if h.Held {
		return kube.Note{Mark: mark, Type: corev1.EventTypeWarning, Reason: "DiskHeld", Message: fmt.Sprintf("the host's disk has %d MiB left, of which %d MiB have to stay free, and this Pod "+
			"writes to it: its writes wait until there is room again. Delete Pods or volumes that are not needed", h.Free/mib, h.Reserve/mib)}
	}
	return kube.Note{Mark: mark + ".on", Type: corev1.EventTypeNormal, Reason: "DiskGoesOn", Message: fmt.Sprintf("the host's disk has %d MiB left: the Pod's writes go on", h.Free/mib)}
}

// describe sets the Node's condition unless it is as it should be, and says it aloud when it becomes so.
func (n *Notice) describe(ctx context.Context, client kubernetes.Interface, accel string, now time.Time) error {
	node, err := client.CoreV1().Nodes().Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Node: %w", err)
	}
	want := condition(accel, now)
	for _, have := range node.Status.Conditions {
		if have.Type == want.Type && have.Status == want.Status {
			return nil
		}
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{want}}})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	if _, err := client.CoreV1().Nodes().PatchStatus(ctx, n.cfg.NodeName, patch); err != nil {
		return fmt.Errorf("describe Node %s: %w", n.cfg.NodeName, err)
	}
	if want.Status != corev1.ConditionTrue {
		return nil
	}
	at := metav1.NewTime(now)
	// The object's UID is the Node's name, as in the kubelet's own events.
	_, err = client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: n.cfg.NodeName + ".emulated.", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.cfg.NodeName, UID: types.UID(n.cfg.NodeName)},
		Type:           corev1.EventTypeWarning, Reason: string(Emulated), Message: want.Message,
		Source: corev1.EventSource{Component: "nodeless", Host: n.cfg.NodeName}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("tell that microVMs are emulated: %w", err)
	}
	return nil
}

// condition is how the Node's microVMs run.
func condition(accel string, now time.Time) corev1.NodeCondition {
	at := metav1.NewTime(now)
	c := corev1.NodeCondition{Type: Emulated, LastHeartbeatTime: at, LastTransitionTime: at}
	if accel == vmm.AccelKVM {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KVM", "microVMs run on hardware virtualization"
		return c
	}
	c.Status, c.Reason = corev1.ConditionTrue, "AskedFor"
	c.Message = "microVMs are emulated (accel: tcg): they are slow, and QEMU does not call its emulation a security boundary. For development and tests, not for strangers"
	return c
}
