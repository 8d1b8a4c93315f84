package podsize

import "testing"

func TestBeyondReserve(t *testing.T) {
	for _, tt := range []struct {
		has, used, percent int64
		want               bool
	}{
		{1000, 900, 10, false}, {1000, 901, 10, true}, {1000, 1000, 0, false}, {1000, 0, 100, false}, {1000, 1, 100, true}, {7, 6, 10, false}, {1 << 60, 1 << 60, 10, true},
	} {
		if got := BeyondReserve(tt.has, tt.used, tt.percent); got != tt.want {
			t.Errorf("BeyondReserve(%d, %d, %d) = %v", tt.has, tt.used, tt.percent, got)
		}
	}
}
