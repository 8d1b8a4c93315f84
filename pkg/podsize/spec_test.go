package podsize

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func catalog(t *testing.T) Catalog {
	t.Helper()
	c, err := DefaultCatalog()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The cloud's page counts its combinations.
func TestDefaultCatalogIsWhole(t *testing.T) {
	got := map[string]int{}
	for _, s := range catalog(t).Sizes() {
		got[s.Type]++
	}
	want := map[string]int{"intel": 128, "amd": 82, "V100": 4, "1/4*T4": 1, "1/2*T4": 1, "T4": 5,
		"A10*PNV4": 4, "A10*GNV4": 1, "1/4*A10*GNV4v": 1, "1/2*A10*GNV4v": 1, "A10*GNV4v": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sizes by type (-want +got):\n%s", diff)
	}
}

// container is one with requests and limits such as "2 4Gi 1", the last being GPUs; empty for none.
func container(requests, limits string) corev1.Container {
	list := func(text string) corev1.ResourceList {
		if text == "" {
			return nil
		}
		l := corev1.ResourceList{}
		for i, f := range strings.Fields(text) {
			if f != "-" {
				l[[]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, GPUResource}[i]] = resource.MustParse(f)
			}
		}
		return l
	}
	return corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}
}

func pod(containers ...corev1.Container) *corev1.PodSpec {
	return &corev1.PodSpec{Containers: containers}
}

func (p podWith) inits(containers ...corev1.Container) *corev1.PodSpec {
	p.InitContainers = containers
	return p.PodSpec
}

func (p podWith) resources(like corev1.Container) *corev1.PodSpec {
	p.Resources = &like.Resources
	return p.PodSpec
}

type podWith struct{ *corev1.PodSpec }

func sidecar(c corev1.Container) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

func TestPodsAreSized(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pod   *corev1.PodSpec
		types string
		want  string
	}{
		// The first four are the cloud's own examples.
		{"one core and 2 GiB", pod(container("1 2Gi", "1 2Gi")), "", "1C2Gi"},
		{"requests in all and the largest limit", pod(container("2 4Gi", "4 4Gi"), container("1 2Gi", "1 2Gi")), "", "4C8Gi"},
		{"a GPU", pod(container("4 16Gi", "8 32Gi 1")), "V100", "8C40Gi 1×V100"},
		{"two GPUs get four for the sake of the cores", pod(container("", "8 32Gi 1"), container("16 64Gi", "32 128Gi 1")), "V100", "36C160Gi 4×V100"},
		{"memory alone", pod(container("- 8Gi", "")), "", "1C8Gi"},
		{"nothing", pod(container("", "")), "", "1C2Gi"},
		{"a negative amount, which the API refuses", pod(container("-1 2Gi", "")), "", "0.25C2Gi"},
		{"cores alone", pod(container("4", "")), "", "4C8Gi"},
		{"between two steps", pod(container("300m", "")), "", "0.5C1Gi"},
		{"half a GiB", pod(container("100m 300Mi", "")), "", "0.25C0.5Gi"},
		{"memory of a list is as it is listed", pod(container("500m 3Gi", "")), "", "0.5C3Gi"},
		{"memory of a range is even", pod(container("1 3Gi", "")), "", "1C4Gi"},
		{"the least of a range is as it is", pod(container("1 1Gi", "")), "", "1C1Gi"},
		{"memory above the range raises the cores", pod(container("1 9Gi", "")), "", "2C10Gi"},
		{"memory below the range is raised", pod(container("8 1Gi", "")), "", "8C16Gi"},
		{"AMD has less memory", pod(container("8 9Gi", "")), "amd", "8C10Gi"},
		{"AMD has no twelve cores", pod(container("12 24Gi", "")), "amd", "16C32Gi"},
		{"the first type that has it", pod(container("10 30Gi", "")), "amd,intel", "16C32Gi"},
		{"what the first type has not, the second has", pod(container("1 - 2", "")), "1/4*T4,T4", "40C160Gi 2×T4"},
		{"three sizes of one GPU", pod(container("9 - 1", "")), "T4", "20C80Gi 1×T4"},
		{"a sidecar runs beside", podWith{pod(container("1 2Gi", ""))}.inits(sidecar(container("1 2Gi", ""))), "", "2C4Gi"},
		{"an init container runs before", podWith{pod(container("1 2Gi", ""))}.inits(container("2 1Gi", "")), "", "2C4Gi"},
		{"an init container runs beside the sidecars before it", podWith{pod(container("1 2Gi", ""))}.inits(sidecar(container("1 2Gi", "")), container("4 1Gi", "")), "", "8C16Gi"},
		{"the Pod as a whole", podWith{pod(container("1 2Gi", ""))}.resources(container("2 4Gi", "3 6Gi")), "", "4C8Gi"},
		{"an init container that says nothing", podWith{pod(container("250m 512Mi", ""))}.inits(container("", "")), "", "1C2Gi"},
		{"an init container beside one that says nothing", podWith{pod(container("", ""))}.inits(container("250m 512Mi", "")), "", "1C2Gi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := DemandOf(tt.pod, DefaultRules())
			if tt.types != "" {
				d.Types = strings.Split(tt.types, ",")
			}
			got, err := catalog(t).Fit(d)
			if err != nil || got.String() != tt.want {
				t.Errorf("Fit(%+v) = %s, %v; want %s", d, got, err, tt.want)
			}
		})
	}
}

func TestRulesHaveTwoReadings(t *testing.T) {
	c := catalog(t)
	c.Rules = Rules{}
	got, err := c.Fit(Demand{CPU: 1000, Memory: 3 * Gi})
	if err != nil || got.String() != "1C3Gi" {
		t.Errorf("in steps of the table: %s, %v; want 1C3Gi", got, err)
	}
	old := podWith{pod(container("250m 512Mi", ""))}.inits(container("", ""))
	if d := DemandOf(old, Rules{}); d.CPU != 250 || d.Memory != Gi/2 {
		t.Errorf("an init container that says nothing counts in the older text: %+v", d)
	}
}

func TestNoSize(t *testing.T) {
	for _, tt := range []struct {
		name   string
		demand Demand
		want   error
		says   string
	}{
		{"too many cores", Demand{CPU: 16001}, ErrTooLarge, "16C64Gi"},
		{"too much memory", Demand{Memory: 64*Gi + 1}, ErrTooLarge, "16C64Gi"},
		{"more than there can be", Demand{CPU: math.MaxInt64, Memory: math.MaxInt64}, ErrTooLarge, "type amd"},
		{"too many GPUs", Demand{GPU: 9, Types: []string{"V100"}}, ErrTooLarge, "72C320Gi 8×V100"},
		{"GPUs of no model", Demand{GPU: 1}, ErrNoSuchSpec, "the types are V100, 1/4*T4"},
		{"an unknown model", Demand{GPU: 1, Types: []string{"H100"}}, ErrNoSuchSpec, `"H100"`},
		{"an unknown CPU", Demand{CPU: 1000, Types: []string{"arm"}}, ErrNoSuchSpec, "the types are intel, amd"},
		{"cores that are no spec", Demand{CPU: 3000, Memory: 4 * Gi, Exact: true}, ErrNoSuchSpec, "there are 0.25, 0.5, 1, 2, 4, 8, 12, 16 cores"},
		{"memory that is no spec", Demand{CPU: 4000, Memory: 4 * Gi, Exact: true, Types: []string{"intel"}}, ErrNoSuchSpec, "there is 4C8Gi to 4C32Gi"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := catalog(t).Fit(tt.demand)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Fit = %s, %v; want %v that says %q", s, err, tt.want, tt.says)
			}
		})
	}
}

func TestExactIsTakenAsItIs(t *testing.T) {
	got, err := catalog(t).Fit(Demand{CPU: 2000, Memory: 5 * Gi, Exact: true})
	if err != nil || got.String() != "2C5Gi" || got.Type != "intel" {
		t.Errorf("Fit = %s of %s, %v; want 2C5Gi of intel: annotations can name odd values", got, got.Type, err)
	}
}

// Nobody is ever given less than was asked for, and nothing is refused that some spec covers.
func TestASizeCoversItsDemand(t *testing.T) {
	c, r := catalog(t), rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := Demand{CPU: r.Int64N(80_000) >> r.IntN(8), Memory: r.Int64N(400*Gi) >> r.IntN(10), GPU: max(0, r.Int64N(20)-10)}
		if d.GPU > 0 || r.IntN(2) == 0 {
			types := c.Types(d.GPU > 0)
			d.Types = []string{types[r.IntN(len(types))]}
		}
		c.Rules = Rules{Even: r.IntN(2) == 0}
		s, err := c.Fit(d)
		if err == nil && !s.covers(d) {
			t.Fatalf("Fit(%+v) = %s, which is less", d, s)
		}
		for _, other := range c.Sizes() {
			if err != nil && other.covers(d) && (other.GPU > 0) == (d.GPU > 0) && (len(d.Types) == 0 || d.Types[0] == other.Type) {
				t.Fatalf("Fit(%+v) = %v, but there is %s", d, err, other)
			}
		}
	}
}

func TestUpgrade(t *testing.T) {
	for _, tt := range []struct{ from, want Size }{
		{Size{"intel", 1000, 2 * Gi, 0}, Size{"intel", 2000, 4 * Gi, 0}},
		{Size{"intel", 4000, 12 * Gi, 0}, Size{"intel", 8000, 16 * Gi, 0}},
		{Size{"amd", 8000, 32 * Gi, 0}, Size{"amd", 16000, 32 * Gi, 0}},
		{Size{"intel", 16000, 64 * Gi, 0}, Size{}},
		{Size{"T4", 8000, 32 * Gi, 1}, Size{}},
	} {
		if got, ok := catalog(t).Upgrade(tt.from); got != tt.want || ok != (tt.want != Size{}) {
			t.Errorf("Upgrade(%s) = %s, %v; want %s", tt.from, got, ok, tt.want)
		}
	}
}

func TestAnOperatorsCatalogIsChecked(t *testing.T) {
	for _, tt := range []struct{ name, text, says string }{
		{"unknown key", "cpu: [{type: a, cpus: 1}]", "cpus"},
		{"no rows", "cpu: []", "cpu: no rows"},
		{"no memory", "cpu: [{type: a, cpu: 1}]", "cpu[0]: want either memory, a list, or range"},
		{"both", "cpu: [{type: a, cpu: 1, memory: [1Gi], range: {from: 1Gi, to: 1Gi, step: 1Gi}}]", "want either"},
		{"no cores", "cpu: [{type: a, cpu: 0, memory: [1Gi]}]", "cpu[0]: cpu is 0"},
		{"no type", "cpu: [{cpu: 1, memory: [1Gi]}]", "cpu[0]: type is missing"},
		{"no number", "cpu: [{type: a, cpu: one, memory: [1Gi]}]", "quantities must match"},
		{"falling memory", "cpu: [{type: a, cpu: 1, memory: [2Gi, 1Gi]}]", "rising"},
		{"falling cores", "cpu: [{type: a, cpu: 2, memory: [2Gi]}, {type: b, cpu: 1, memory: [1Gi]}, {type: a, cpu: 1, memory: [1Gi]}]", "cpu[2]: 1 cores of a stands behind 2 cores"},
		{"a range of broken steps", "cpu: [{type: a, cpu: 1, range: {from: 1Gi, to: 8Gi, step: 3Gi}}]", "whole steps"},
		{"a range without end", "cpu: [{type: a, cpu: 1, range: {from: 1, to: 8Gi, step: 1}}]", "at most 4096"},
		{"a GPU among the CPUs", "cpu: [{type: a, cpu: 1, gpu: 1, memory: [1Gi]}]", "belongs below gpu"},
		{"no GPU", "cpu: [{type: a, cpu: 1, memory: [1Gi]}]\ngpu: [{type: b, cpu: 1, memory: [1Gi]}]", "gpu[0]: gpu is 0"},
		{"two faults at once", "cpu: [{type: a, cpu: 0, memory: [1Gi]}, {cpu: 1, memory: [1Gi]}]", "cpu[1]: type is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseCatalog([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("ParseCatalog = %v, want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestSizesAreReadAsTheyAreWritten(t *testing.T) {
	c := catalog(t)
	for _, r := range append(slices.Clone(c.cpu), c.gpu...) {
		for _, m := range r.memory {
			want := r.with(m)
			if got, err := ParseSize(want.String(), want.Type); err != nil || got != want {
				t.Errorf("ParseSize(%q, %q) = %+v, %v; want %+v", want, want.Type, got, err, want)
			}
		}
	}
	for _, text := range []string{"", "4C8G", "4C", "C8Gi", "-4C8Gi", "4C8Gi ", "4C8Gi 1×V100", "99999999999999999999C1Gi", "4C8Gi 1x"} {
		if got, err := ParseSize(text, "intel"); err == nil {
			t.Errorf("ParseSize(%q) = %+v, want an error", text, got)
		}
	}
	if _, err := ParseSize("4C8Gi", ""); err == nil {
		t.Error("a size of no type is read")
	}
}
