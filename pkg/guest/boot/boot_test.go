package boot

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestModuleNames(t *testing.T) {
	got := moduleNames("# first the bus\nvirtio_ring.ko\n\n  virtio.ko # then the rest\n../etc/evil.ko\n")
	if diff := cmp.Diff([]string{"virtio_ring.ko", "virtio.ko", "evil.ko"}, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}

func TestFindPort(t *testing.T) {
	ports := fstest.MapFS{
		"vport1p1/name": {Data: []byte("other\n")},
		"vport1p2/name": {Data: []byte("agent\n")},
	}
	if got, err := findPort(ports, "agent"); got != "vport1p2" || err != nil {
		t.Errorf("findPort = %q, %v", got, err)
	}
	if _, err := findPort(ports, "absent"); !errors.Is(err, ErrNoPort) {
		t.Errorf("findPort = %v, want ErrNoPort", err)
	}
}
