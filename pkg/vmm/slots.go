package vmm

import (
	"errors"
	"fmt"
)

var errNoSlot = errors.New("no free slot")

// slots are the numbers of hot-plugged devices: first those of root ports, then those behind the plug bridge. The first root ports have the
// guest's devices of the host.
type slots struct {
	order []int
	ports int // how many of them are root ports
	used  map[int]bool
}

func newSlots(cards, ports int) slots {
	s := slots{order: plugSlots(), ports: len(portSlots(cards + ports)), used: map[int]bool{}}
	for _, slot := range portSlots(cards) {
		s.used[slot] = true
	}
	return s
}

// take gives a slot behind the bridge, and a root port when there is none.
func (s slots) take() (int, error) {
	for _, part := range [][]int{s.order[s.ports:], s.order[:s.ports]} {
		if slot, ok := s.first(part); ok {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d are in use", errNoSlot, len(s.order))
}

func (s slots) first(of []int) (slot int, ok bool) {
	for _, slot := range of {
		if !s.used[slot] {
			s.used[slot] = true
			return slot, true
		}
	}
	return 0, false
}

func (s slots) free(slot int) { delete(s.used, slot) }

// place is where QEMU finds the slot.
func (s slots) place(slot int) map[string]any {
	for _, port := range s.order[:s.ports] {
		if port == slot {
			return map[string]any{"bus": portID(slot)}
		}
	}
	return map[string]any{"bus": bridgeID, "addr": fmt.Sprintf("0x%02x", slot)}
}

// bdf is how a slot is told to Kata, which hands its number on to the guest.
func bdf(slot int) string { return fmt.Sprintf("0000:00:%02x.0", slot) }
