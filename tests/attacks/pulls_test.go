package attacks_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/tests/attack"
	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
	"github.com/nodeless/nodeless/tests/testregistry"
)

// registryHost is the registry of the shared host.
const registryHost = "registry.test:" + testcluster.RegistryPort

// slowImages is how many Pods of the attacker pull at once. They are small, so that the smallest host has room for the neighbour's.
const slowImages = 10

// TestAttackTenantPulls: one tenant pulls images whose layers hardly come, a second one pulls an image and watches.
func TestAttackTenantPulls(t *testing.T) {
	attack.Slow(t)
	victim, mallory := newTenant(t, shared, "victim-pulls"), newTenant(t, shared, "mallory-pulls")
	victim.Apply(testcluster.Sleeper("neighbour", ""))
	victim.Ready("neighbour")
	honest := pushHonest(t)

	attack.Try(t, "T8", "ten images that hardly come", func(t *testing.T) attack.Outcome {
		finish := watch(t, victim, "neighbour")
		for n := range slowImages {
			pull(t, mallory, fmt.Sprintf("slow-%d", n), pushSlow(t, fmt.Sprintf("slow-%d", n)))
		}
		victim.Until("the attacker's layers are asked for", func() (bool, error) {
			asked := 0
			for _, r := range registry.Requests() {
				if strings.Contains(r, "/v2/slow-") && strings.Contains(r, "/blobs/") {
					asked++
				}
			}
			return asked >= 3, fmt.Errorf("%d were", asked)
		})
		began := time.Now()
		pull(t, victim, "pulls", honest)
		victim.Ready("pulls")
		t.Logf("the neighbour's image came and its Pod was ready after %s", time.Since(began).Round(time.Second))
		finish(t)
		if time.Since(began) > time.Minute {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestAttackAPodWhoseImageIsAtTheHost: it is the host that pulls. Its own programs, and what Services lead to, are not asked for an image.
func TestAttackAPodWhoseImageIsAtTheHost(t *testing.T) {
	mallory := newTenant(t, shared, "mallory-host")
	places := []string{"127.0.0.1:6443", "localhost:10250", testbed.NodeIP + ":6443", "10.42.0.1:53", "10.43.0.1:443"}
	attack.Try(t, "T3", "images at the host's apiserver, kubelet and name server", func(t *testing.T) attack.Outcome {
		pull(t, mallory, "inside", places[0]+"/x:1", places[1:]...)
		mallory.Until("every image is refused, with what to do", func() (bool, error) {
			pod, err := mallory.Client.CoreV1().Pods(mallory.Name).Get(t.Context(), "inside", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			var told []string
			for _, c := range pod.Status.ContainerStatuses {
				if w := c.State.Waiting; w != nil && strings.Contains(w.Message, "only if the operator names its host and port under configs in registries.yaml") {
					told = append(told, c.Image)
				}
			}
			return len(told) == len(places), fmt.Errorf("refused are %q: %+v", told, pod.Status.ContainerStatuses)
		})
		return attack.Refused
	})
}

// pull makes a Pod that needs an image, and one from each further registry.
func pull(t *testing.T, by *tenant, name, image string, registries ...string) {
	t.Helper()
	grace := int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "c", Image: image, ImagePullPolicy: corev1.PullAlways, Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		}}},
	}}
	for i, registry := range registries {
		more := pod.Spec.Containers[0]
		more.Name, more.Image = fmt.Sprintf("c%d", i), registry+"/x:1"
		pod.Spec.Containers = append(pod.Spec.Containers, more)
	}
	if _, err := by.Client.CoreV1().Pods(by.Name).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// pushHonest puts an image into the registry whose program waits.
func pushHonest(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox") // Debian's busybox-static
	if err != nil {
		t.Fatal(err)
	}
	return push(t, "honest", testregistry.Tar(testregistry.Dir("bin", 0o755), testregistry.File("bin/busybox", 0o755, string(program))))
}

// pushSlow puts an image into the registry whose layer comes a byte a second.
func pushSlow(t *testing.T, name string) string {
	t.Helper()
	layer := testregistry.Tar(testregistry.File(name, 0o644, strings.Repeat(name, 1000)))
	image := push(t, name, layer)
	registry.Handle("/v2/"+name+"/blobs/"+digest.FromBytes(layer).String(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := range layer {
			if _, err := w.Write(layer[i : i+1]); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // a byte alone
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	return image
}

func push(t *testing.T, name string, layer []byte) string {
	t.Helper()
	config := v1.ImageConfig{Entrypoint: []string{"/bin/busybox", "sleep", "1000"}}
	if _, err := registry.Push(name, "1", testregistry.Image{Arch: "amd64", Config: config, Layers: []testregistry.Layer{{Tar: layer}}}); err != nil {
		t.Fatal(err)
	}
	return registryHost + "/" + name + ":1"
}

// newRegistry serves a registry in the shared host.
func newRegistry(h *testbed.Host) (*testregistry.Registry, error) {
	r, err := testregistry.New("registry.test")
	if err != nil {
		return nil, err
	}
	trust := "configs:\n  " + registryHost + ":\n    tls: {ca_file: " + testcluster.RegistryCA + "}\n"
	return r, testcluster.ServeRegistry(h, r, trust, "registry.test")
}
