package datadir_test

import (
	"os"
	"testing"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/hint"
)

func TestClusterID(t *testing.T) {
	one, other := datadir.Dir(t.TempDir()), datadir.Dir(t.TempDir())
	id := func(d datadir.Dir) string {
		t.Helper()
		id, err := d.ClusterID()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := id(one)
	if again := id(one); again != first {
		t.Errorf("the id was %s, and now is %s", first, again)
	}
	if id(other) == first {
		t.Errorf("two clusters are %s", first)
	}
	if info, err := os.Stat(one.ClusterIDFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want mode 0600", info, err)
	}
	for _, text := range []string{"", "cls-", "cls-ABCDEFGH", "cls-abcdefgh\nx", "../../etc"} {
		if err := os.WriteFile(one.ClusterIDFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := one.ClusterID(); len(hint.Of(err)) == 0 {
			t.Errorf("%q is taken for the id %q, %v", text, got, err)
		}
	}
}
