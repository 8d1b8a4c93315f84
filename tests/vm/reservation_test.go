package vm_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/bill"
	"github.com/nodeless/nodeless/pkg/bill/journal"
	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// TestReservationKeepsItsPlace: a reservation that holds capacity keeps room for its Pod, and pays for that Pod. Others get the room when
// it is given back. One that has expired keeps nothing and pays nothing. It is worked out for a host that gives eight CPUs.
func TestReservationKeepsItsPlace(t *testing.T) {
	shared.OwnHost(t, "the journal of its server is written to")
	s := newQuietSpace(t, 6*time.Minute)
	if cpus := s.allocatable(corev1.ResourceCPU).Value(); cpus != 8 {
		t.Skipf("skipped: the host gives %d CPUs, and the test is worked out for 8", cpus)
	}
	asks := func(name, cpu string) string {
		return testcluster.Sleeper(name, "    resources: {requests: {cpu: "+cpu+"}}\n")
	}
	const refused = "kept free for reservations"
	s.addExpired(podsize.Size{Type: bill.Common, CPU: 2000, Memory: 4 * podsize.Gi})
	s.nodeless("reservation", "buy", "-n", s.Name, "--size", "4C8Gi", "--months", "1", "--hold-capacity", "web")
	if list := s.nodeless("reservation", "list", "-n", s.Name); !strings.Contains(list, "Expired") || !strings.Contains(list, "Active") {
		t.Errorf("the reservations are listed as\n%s", list)
	}

	s.Apply(asks("one", "2") + "---" + asks("two", "2"))
	s.Ready("one")
	s.Ready("two")
	s.Apply(asks("three", "2")) // 4 of 8 are taken, and 4 are kept
	s.event("three", "FailedScheduling", "1 place(s) "+refused)
	s.Apply(asks("web", "4"))
	s.Ready("web")

	charges := s.charges()
	if charges["4C8Gi"] != string(bill.Reserved) || charges["2C4Gi"] != api.ChargePostPaid {
		t.Errorf("the bill has %v, want 4C8Gi paid by the reservation and 2C4Gi by the second", charges)
	}

	// Its Pod has gone, and the place is kept again, until the reservation is given back.
	s.Kubectl("delete", "pod", "web")
	s.Apply(asks("four", "2"))
	s.event("four", "FailedScheduling", "1 place(s) "+refused)
	s.nodeless("reservation", "refund", "-n", s.Name, "web")
	s.Kubectl("delete", "pod", "one") // what ends makes the scheduler look again
	s.Ready("three")
	s.Ready("four")
}

// nodeless runs a command of the program and gives what it prints.
func (s *space) nodeless(args ...string) string {
	s.T.Helper()
	out, err := s.Host.Exec(s.Ctx, append([]string{s.Host.Program}, args...)...)
	if err != nil {
		s.T.Fatalf("nodeless %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// addExpired enters a reservation into the journal that has ended ten days ago; none can be bought like that.
func (s *space) addExpired(size podsize.Size) {
	s.T.Helper()
	b, err := journal.Open(s.Ctx, datadir.Dir(filepath.Join(s.Host.Root, "data")).Bills())
	if err != nil {
		s.T.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // what was written is checked
	now := time.Now().UTC().Truncate(time.Second)
	if err := b.Buy(s.Ctx, journal.Reservation{
		ID: journal.NewID(), Namespace: s.Name, Name: "old", Size: size, Months: 1, From: now.AddDate(0, 0, -40), Until: now.AddDate(0, 0, -10),
		Currency: journal.Currency{Code: "CNY", Digits: 6}, HoldCapacity: true,
	}); err != nil {
		s.T.Fatal(err)
	}
}

// charges gives how the specs on the bill of this month are paid for.
func (s *space) charges() map[string]string {
	s.T.Helper()
	out := s.nodeless("bill", "-n", s.Name, "-o", "json")
	var bills []struct {
		Lines []struct {
			Spec       string `json:"spec"`
			ChargeType string `json:"chargeType"`
		} `json:"lines"`
	}
	if err := json.Unmarshal([]byte(out), &bills); err != nil || len(bills) != 1 {
		s.T.Fatalf("the bill: %v\n%s", err, out)
	}
	charges := map[string]string{}
	for _, l := range bills[0].Lines {
		if before := charges[l.Spec]; before != "" && before != l.ChargeType {
			s.T.Errorf("%s is paid for by %s and %s", l.Spec, before, l.ChargeType)
		}
		charges[l.Spec] = l.ChargeType
	}
	return charges
}
