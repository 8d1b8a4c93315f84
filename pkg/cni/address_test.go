package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAddressesRest: an address that was given back is the last that is given, until it has rested.
func TestAddressesRest(t *testing.T) {
	conf := &Conf{PodCIDR: netip.MustParsePrefix("10.42.0.0/29"), Gateway: netip.MustParseAddr("10.42.0.1"), DataDir: t.TempDir()}
	conf.Name = Type
	next := 0
	give := func(want string) (id string) {
		t.Helper()
		id = fmt.Sprint("pod-", next)
		next++
		got, err := allocate(conf, id, "eth0")
		if err != nil || got.String() != want {
			t.Fatalf("allocate = %s, %v, want %s", got, err, want)
		}
		return id
	}
	take := func(id, addr string, ago time.Duration) {
		t.Helper()
		if err := retire(conf, id, "eth0"); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-ago)
		if err := os.Chtimes(filepath.Join(conf.DataDir, Type, addr), then, then); err != nil {
			t.Fatal(err)
		}
		if _, found, err := reserved(conf, id, "eth0"); err != nil || found {
			t.Errorf("%s still holds an address, %v", id, err)
		}
	}
	var ids []string
	for i := 2; i <= 5; i++ {
		ids = append(ids, give(fmt.Sprint("10.42.0.", i)))
	}
	take(ids[0], "10.42.0.2", 0)
	last := give("10.42.0.6")
	take(ids[1], "10.42.0.3", rest/2)
	give("10.42.0.3") // none has rested; this one for longest
	take(ids[2], "10.42.0.4", rest)
	give("10.42.0.4")
	take(last, "10.42.0.6", -time.Hour) // the clock was set back
	give("10.42.0.6")
	give("10.42.0.2")
	if _, err := allocate(conf, "one-more", "eth0"); err == nil {
		t.Error("a full range gave an address")
	}
	if err := retire(conf, "nobody", "eth0"); err != nil {
		t.Errorf("retire what nobody holds: %v", err)
	}
}
