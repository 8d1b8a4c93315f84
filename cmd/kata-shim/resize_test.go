package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeVM is a microVM that grows up to most.
type fakeVM struct {
	memory, most int64
	vcpus        int
	resized      int
	spec         limits // as the last resize had it
}

var errFull = errors.New("full")

func (f *fakeVM) size(context.Context) (int64, int, error) { return f.memory, f.vcpus, nil }

func (f *fakeVM) resize(_ context.Context, memory int64, vcpus int, spec limits) error {
	if memory > f.most {
		return errFull
	}
	f.memory, f.vcpus, f.spec, f.resized = memory, vcpus, spec, f.resized+1
	return nil
}

const mib = 1 << 20

func to(memory, cpu int64) func(limits) limits {
	return func(limits) limits { return limits{memory, cpu} }
}

func TestMicroVMFollowsTheSumOfItsContainers(t *testing.T) {
	f := &fakeVM{memory: 384 * mib, most: 2048 * mib, vcpus: 1}
	s := &sizer{machine: f, granted: limits{128 * mib, 500}, containers: map[string]limits{}}
	steps := []struct {
		name    string
		id      string
		to      func(limits) limits
		memory  int64
		vcpus   int
		resized int // how often so far
		fails   bool
	}{
		{name: "the first container fits what was booted", id: "a", to: to(64*mib, 250), memory: 384 * mib, vcpus: 1},
		{name: "so does the second", id: "b", to: to(64*mib, 250), memory: 384 * mib, vcpus: 1},
		{name: "one grows", id: "a", to: to(192*mib, 250), memory: 512 * mib, vcpus: 1, resized: 1},
		{name: "the other grows too", id: "b", to: to(192*mib, 250), memory: 640 * mib, vcpus: 1, resized: 2},
		{name: "CPUs are counted whole over all", id: "b", to: to(192*mib, 800), memory: 640 * mib, vcpus: 2, resized: 3},
		{name: "too much is refused", id: "a", to: to(4096*mib, 250), memory: 640 * mib, vcpus: 2, resized: 3, fails: true},
		{name: "and was not counted", id: "c", to: to(0, 0), memory: 640 * mib, vcpus: 2, resized: 3},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			_, err := s.set(t.Context(), step.id, step.to)
			if (err != nil) != step.fails {
				t.Fatalf("set = %v", err)
			}
			if f.memory != step.memory || f.vcpus != step.vcpus || f.resized != step.resized {
				t.Errorf("the microVM has %d MiB and %d vCPUs, resized %d times, want %d, %d, %d",
					f.memory/mib, f.vcpus, f.resized, step.memory/mib, step.vcpus, step.resized)
			}
		})
	}
}

func TestMemoryIsTakenBackWhenNoContainerMayUseIt(t *testing.T) {
	f := &fakeVM{memory: 256*mib + 512*mib, most: 2048 * mib, vcpus: 2}
	s := &sizer{machine: f, granted: limits{512 * mib, 2000}, containers: map[string]limits{}}
	set := func(id string, memory, cpu int64) {
		t.Helper()
		_, err := s.set(t.Context(), id, to(memory, cpu))
		if err := errors.Join(err, s.settle(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	set("unlimited", 0, 0)
	set("a", 64*mib, 1000)
	if f.resized != 0 {
		t.Errorf("memory that a container without a limit may use was taken: %d MiB are left", f.memory/mib)
	}
	s.forget("unlimited")
	set("a", 100*mib, 1000)
	if f.memory != 356*mib || f.vcpus != 2 {
		t.Errorf("the microVM has %d MiB and %d vCPUs, want 356 and, as before, 2", f.memory/mib, f.vcpus)
	}
	set("b", 100*mib, 0)
	if f.memory != 456*mib {
		t.Errorf("the microVM has %d MiB after another container came, want 456", f.memory/mib)
	}
}

func TestSpecIsTheSizeWhateverContainersMayUse(t *testing.T) {
	f := &fakeVM{memory: 256*mib + 1024*mib, most: 4096 * mib, vcpus: 1}
	s := &sizer{machine: f, fixed: true, granted: limits{1024 * mib, 1000}, containers: map[string]limits{}}
	for _, id := range []string{"a", "b"} {
		if _, err := s.set(t.Context(), id, to(1024*mib, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.settle(t.Context()); err != nil || f.resized != 0 {
		t.Fatalf("the limits of containers have resized the microVM %d times, %v", f.resized, err)
	}
	steps := []struct {
		name   string
		to     func(limits) limits
		memory int64
		vcpus  int
	}{
		{"a larger spec", to(2048*mib, 2000), 256 + 2048, 2},
		{"the same again", to(2048*mib, 2000), 256 + 2048, 2},
		{"a smaller one gives memory back", to(512*mib, 500), 256 + 512, 2},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if err := s.become(t.Context(), step.to); err != nil {
				t.Fatal(err)
			}
			if f.memory != step.memory*mib || f.vcpus != step.vcpus {
				t.Errorf("the microVM has %d MiB and %d vCPUs, want %d and %d", f.memory/mib, f.vcpus, step.memory, step.vcpus)
			}
		})
	}
	if want := (limits{512 * mib, 500}); f.resized != 2 || f.spec != want {
		t.Errorf("it was resized %d times, at last to %+v; want 2 and %+v", f.resized, f.spec, want)
	}
	if err := s.become(t.Context(), to(8192*mib, 1000)); !errors.Is(err, errFull) || s.granted.memory != 512*mib {
		t.Errorf("more than it can have: %v, granted %d MiB", err, s.granted.memory/mib)
	}
}

func TestContainersThatAreGoneDoNotCount(t *testing.T) {
	f := &fakeVM{memory: 320 * mib, most: 512 * mib, vcpus: 1}
	s := &sizer{machine: f, granted: limits{memory: 64 * mib}, containers: map[string]limits{}}
	undo, err := s.set(t.Context(), "failed", to(64*mib, 0))
	if err != nil {
		t.Fatal(err)
	}
	undo()
	for _, id := range []string{"first", "second", "third"} {
		if _, err := s.set(t.Context(), id, to(64*mib, 0)); err != nil {
			t.Fatal(err)
		}
		s.forget(id)
	}
	if f.resized != 0 {
		t.Errorf("a container that restarts has made the microVM grow to %d MiB", f.memory/mib)
	}
}

func TestResourcesAreReadAsContainerdWritesThem(t *testing.T) {
	bundle := tree(t, map[string]string{"config.json": `{
		"annotations": {"io.kubernetes.cri.sandbox-memory":"100000000","io.kubernetes.cri.sandbox-cpu-quota":"150000","io.kubernetes.cri.sandbox-cpu-period":"100000"},
		"linux": {"resources": {"memory": {"limit": 67108864}, "cpu": {"shares": 2, "quota": 50000, "period": 100000}}}}`})
	d, err := readDescription(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.booted(), (limits{95 * mib, 1500}); got != want {
		t.Errorf("booted = %v, want %v", got, want)
	}
	if got, want := d.Linux.Resources.over(limits{1, 1}), (limits{64 * mib, 500}); got != want {
		t.Errorf("limits = %v, want %v", got, want)
	}
	var none resources
	if err := json.Unmarshal([]byte(`{"cpu":{"shares":1024,"quota":-1,"period":100000}}`), &none); err != nil {
		t.Fatal(err)
	}
	if got, want := none.over(limits{7, 7}), (limits{7, 0}); got != want {
		t.Errorf("limits after the CPU limit was lifted = %v, want %v", got, want)
	}
	if got := (description{}).booted(); got != (limits{}) {
		t.Errorf("booted without annotations = %v", got)
	}
}

func TestWhatTheVMMSaysIsPassedOn(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "clh-api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		if r.Method == http.MethodPut {
			http.Error(w, "resize VM: 9 vCPUs are too many", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte(`{"config":{"memory":{"size":335544320},"cpus":{"boot_vcpus":2}},"state":"Running"}`))
	})}
	go server.Serve(l) //nolint:errcheck // ends with Close
	defer server.Close()
	v := vm{dir: dir}
	memory, vcpus, err := v.size(t.Context())
	if err != nil || memory != 320*mib || vcpus != 2 {
		t.Errorf("size = %d, %d, %v", memory, vcpus, err)
	}
	if err := v.resize(t.Context(), 512*mib, 9, limits{}); err == nil || !strings.Contains(err.Error(), "9 vCPUs are too many") {
		t.Errorf("resize = %v, want the VMM's own words", err)
	}
	if want := []string{"GET /api/v1/vm.info", "PUT /api/v1/vm.resize"}; !slices.Equal(asked, want) {
		t.Errorf("calls = %q, want %q", asked, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "clh-api.sock")); err != nil {
		t.Error(err)
	}
}
