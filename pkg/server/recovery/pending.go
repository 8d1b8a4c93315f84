package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodeless/nodeless/pkg/atomicfile"
)

// pendingSuffix makes the note of the Pods that are pending out of the path of the note of the restore.
const pendingSuffix = ".pods"

// pending are Pods that are deleted, or about to be, and are to be made again. The file has them as long as memory does: a Pod that nobody
// owns exists nowhere else once it is deleted.
type pending struct {
	file string
	pods map[types.UID]*corev1.Pod
}

// load takes over what an earlier process has left.
func (p *pending) load() error {
	p.pods = map[types.UID]*corev1.Pod{}
	raw, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &p.pods)
	}
	if err != nil {
		return fmt.Errorf("read Pods to be made again from %s: %w", p.file, err)
	}
	return nil
}

// add notes those of the Pods that are to be made again. When it returns nil, they survive a power cut.
func (p *pending) add(pods []corev1.Pod) error {
	added := false
	for i := range pods {
		if again := Unbound(&pods[i]); again != nil {
			p.pods[pods[i].UID] = again
			added = true
		}
	}
	if !added {
		return nil
	}
	return p.save()
}

// remove forgets Pods that are there again.
func (p *pending) remove(made []types.UID) error {
	if len(made) == 0 {
		return nil
	}
	for _, uid := range made {
		delete(p.pods, uid)
	}
	return p.save()
}

// save writes the file, and removes it when nothing is pending.
func (p *pending) save() error {
	if len(p.pods) == 0 {
		if err := os.Remove(p.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove note of Pods that are there again: %w", err)
		}
		return nil
	}
	raw, err := json.Marshal(p.pods)
	if err != nil {
		return fmt.Errorf("write down Pods to be made again: %w", err)
	}
	if err := atomicfile.Write(p.file, raw, 0o600); err != nil {
		return fmt.Errorf("write down Pods to be made again: %w", err)
	}
	return nil
}
