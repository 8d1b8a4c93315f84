package podsize

import (
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/api"
)

func TestAnnotationsDecide(t *testing.T) {
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		want        string
	}{
		{"a named spec stands above requests", map[string]string{api.CPU: "4", api.Memory: "9Gi"}, "4C9Gi"},
		{"less than a core", map[string]string{api.CPU: "0.25", api.Memory: "512Mi"}, "0.25C0.5Gi"},
		{"AMD first", map[string]string{api.CPU: "8", api.Memory: "8Gi", api.CPUType: "amd, intel"}, "8C8Gi"},
		{"a family that is not here, then AMD", map[string]string{api.CPUType: "SA5,amd"}, "2C4Gi"},
		{"GPUs by annotation", map[string]string{api.GPUCount: "2", api.GPUType: "V100"}, "18C80Gi 2×V100"},
		{"a GPU by its model alone", map[string]string{api.GPUType: "T4"}, "8C32Gi 1×T4"},
		{"a slice of a GPU", map[string]string{api.GPUCount: "1", api.GPUType: "1/4*T4"}, "4C20Gi 1×1/4*T4"},
		{"a named spec with a GPU", map[string]string{api.CPU: "20", api.Memory: "80Gi", api.GPUCount: "1", api.GPUType: "T4"}, "20C80Gi 1×T4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := ParseWish(tt.annotations)
			if err != nil {
				t.Fatal(err)
			}
			d := w.On(DemandOf(pod(container("2 4Gi", "")), DefaultRules()))
			if got, err := catalog(t).Fit(d); err != nil || got.String() != tt.want {
				t.Errorf("Fit(%+v) = %s, %v; want %s", d, got, err, tt.want)
			}
		})
	}
}

func TestWrongAnnotationsAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		says        []string
	}{
		{"memory without cores", map[string]string{api.Memory: "4Gi"}, []string{"both or by none"}},
		{"cores without memory", map[string]string{api.CPU: "4"}, []string{"both or by none"}},
		{"G for Gi", map[string]string{api.CPU: "4", api.Memory: "8G"}, []string{api.Memory + `: "8G"`, `such as "4Gi"`}},
		{"no unit", map[string]string{api.CPU: "4", api.Memory: "8"}, []string{"in GiB"}},
		{"negative", map[string]string{api.CPU: "-1", api.Memory: "-8Gi"}, []string{api.CPU, api.Memory}},
		{"absurd", map[string]string{api.CPU: "1e30", api.Memory: "99999999999999Gi"}, []string{api.CPU, api.Memory}},
		{"half a GPU", map[string]string{api.GPUCount: "0.5"}, []string{"whole number from 1"}},
		{"a disk that is smaller than the free one", map[string]string{api.RootDiskSize: "10"}, []string{"from 20"}},
		{"a disk with a unit", map[string]string{api.RootDiskSize: "50Gi"}, []string{"whole number"}},
		{"neither true nor false", map[string]string{api.SpecAutoUpgrade: "yes"}, []string{`"yes"`, `"true" or "false"`}},
		{"an empty name", map[string]string{api.CPUType: "amd,,intel"}, []string{"parted by commas"}},
		{"all at once", map[string]string{api.GPUCount: "x", api.RootDiskSize: "y", api.GPUType: ""}, []string{api.GPUCount, api.RootDiskSize, api.GPUType}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseWish(tt.annotations)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
		})
	}
}
