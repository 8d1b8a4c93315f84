package cidr_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/nodeless/nodeless/pkg/cidr"
)

func TestFirst(t *testing.T) {
	tests := []struct {
		name, in string
		bits     int
		want     string
		wantErr  error
	}{
		{name: "a host takes the first /24", in: "10.42.0.0/16", bits: 24, want: "10.42.0.0/24"},
		{name: "host bits are dropped", in: "10.42.7.9/16", bits: 24, want: "10.42.0.0/24"},
		{name: "a /24 is its own first /24", in: "10.42.3.0/24", bits: 24, want: "10.42.3.0/24"},
		{name: "a /26 has no /24", in: "10.42.3.0/26", bits: 24, wantErr: cidr.ErrTooSmall},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := cidr.First(netip.MustParsePrefix(tt.in), tt.bits)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("First error = %v, want %v", err, tt.wantErr)
			}
			if err == nil && got.String() != tt.want {
				t.Errorf("First = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestFirstRefusesIPv6(t *testing.T) {
	if _, err := cidr.First(netip.MustParsePrefix("fd00::/16"), 24); err == nil {
		t.Error("First of an IPv6 range succeeded, want an error")
	}
}

func TestNth(t *testing.T) {
	tests := []struct {
		name, in string
		n        uint32
		want     string
		wantErr  error
	}{
		{name: "the gateway", in: "10.42.0.0/24", n: 1, want: "10.42.0.1"},
		{name: "cluster DNS", in: "10.43.0.0/16", n: 10, want: "10.43.0.10"},
		{name: "carry into the next octet", in: "10.43.0.0/16", n: 256, want: "10.43.1.0"},
		{name: "the last address", in: "10.42.0.0/24", n: 255, want: "10.42.0.255"},
		{name: "one too far", in: "10.42.0.0/24", n: 256, wantErr: cidr.ErrTooSmall},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := cidr.Nth(netip.MustParsePrefix(tt.in), tt.n)
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("Nth error = %v, want %v", err, tt.wantErr)
			}
			if err == nil && got.String() != tt.want {
				t.Errorf("Nth = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestContainsAndOverlap(t *testing.T) {
	tests := []struct {
		a, b              string
		contains, overlap bool
	}{
		{"10.42.0.0/16", "10.42.3.0/24", true, true},
		{"10.42.3.0/24", "10.42.0.0/16", false, true},
		{"10.42.0.0/16", "10.43.0.0/16", false, false},
		{"10.42.0.0/16", "10.42.0.0/16", true, true},
	}
	for _, tt := range tests {
		a, b := netip.MustParsePrefix(tt.a), netip.MustParsePrefix(tt.b)
		if got := cidr.Contains(a, b); got != tt.contains {
			t.Errorf("Contains(%s, %s) = %v, want %v", a, b, got, tt.contains)
		}
		if got := cidr.Overlap(a, b); got != tt.overlap {
			t.Errorf("Overlap(%s, %s) = %v, want %v", a, b, got, tt.overlap)
		}
	}
}
