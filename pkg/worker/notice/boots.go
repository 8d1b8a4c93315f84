package notice

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/vmm"
)

const (
	// longWait is how long a Pod waits for its turn to boot before that is told, and longBoot how long its boot takes.
	longWait = 5 * time.Second
	longBoot = 30 * time.Second
)

// tellBoots says, once for each attempt, which Pods wait for others to boot, and which boot for long.
func (n *Notice) tellBoots(ctx context.Context, client kubernetes.Interface, now time.Time) error {
	boots := n.cfg.Boots()
	booting := 0
	for _, b := range boots {
		if b.Booting {
			booting++
		}
	}
	var errs []error
	waiting := 0
	for _, b := range boots { // the oldest first
		note, worth := noteOfBoot(b, booting, waiting, now)
		if !b.Booting {
			waiting++
		}
		if !worth {
			continue
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: b.Name, UID: types.UID(b.UID)}}
		errs = append(errs, n.teller.Tell(ctx, client, pod, note, now))
	}
	return errors.Join(errs...)
}

// noteOfBoot is the event, if there is something to say. booting is how many boot, this one included, and before how many wait and came
// before.
func noteOfBoot(b vmm.Boot, booting, before int, now time.Time) (note kube.Note, worth bool) {
	took := now.Sub(b.Since)
	note = kube.Note{Type: corev1.EventTypeNormal, Mark: fmt.Sprintf("boot.%d", b.Since.Unix())}
	if !b.Booting {
		note.Reason = "WaitsToBoot"
		note.Message = fmt.Sprintf("%d other microVMs are booting on this host, and %d more have waited for longer: this Pod's boots when it is its turn", booting, before)
		return note, took >= longWait
	}
	note.Reason = "BootsSlowly"
	note.Message = fmt.Sprintf("the microVM has been booting for %v, %d others on this host boot as well: it is waited for as long as it gets on", took.Round(time.Second), booting-1)
	return note, took >= longBoot
}
