package vmm

import (
	"errors"
	"fmt"
)

var errNoSlot = errors.New("no free root port")

// slots are the root ports, in the order in which they are given out.
type slots struct {
	order []int
	used  map[int]bool
}

func newSlots(n int) slots {
	return slots{order: portSlots(n), used: map[int]bool{}}
}

func (s slots) take() (int, error) {
	for _, slot := range s.order {
		if !s.used[slot] {
			s.used[slot] = true
			return slot, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d are in use", errNoSlot, len(s.order))
}

func (s slots) free(slot int) { delete(s.used, slot) }

// bdf is how a root port's slot is told to Kata.
func bdf(slot int) string { return fmt.Sprintf("0000:00:%02x.0", slot) }
