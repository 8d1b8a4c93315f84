package sandboxrecord_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// sample has something in every field.
func sample(sandbox string) sandboxrecord.Record {
	return sandboxrecord.Record{
		Sandbox: sandbox, Node: "host-1",
		Pod: sandboxrecord.Pod{Namespace: "shop", Name: "web-1", UID: "uid-1", Workload: "Deployment/web", Spec: "1C2Gi", SpecType: "intel", Charge: "SPOT",
			Tags: map[string]string{"team": "a \"b\" <c>\n\x00", "é": "=1+1"}},
		BootID: "6a9a8cbd-4a44-4f2c-8a5e-000000000001", QEMU: sandboxrecord.Process{PID: 12, Ticks: 345}, VMM: sandboxrecord.Process{PID: 11, Ticks: 344},
		Start: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), StartBoot: 3450 * time.Millisecond, EndBoot: time.Hour + 1,
		Resizes: []sandboxrecord.Resize{{At: time.Minute, Spec: "2C4Gi", SpecType: "intel"}},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	dir := sandboxrecord.Dir(filepath.Join(t.TempDir(), "made", "by", "write"))
	if _, err := dir.ReadAll(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadAll without a folder = %v, want ErrNotExist", err)
	}
	want := []sandboxrecord.Record{sample("aa"), sample("b.b-c_d"), {
		Sandbox: "c", BootID: "x", QEMU: sandboxrecord.Process{PID: 1, Ticks: 1}, VMM: sandboxrecord.Process{PID: 1, Ticks: 1}, Start: time.Unix(0, 1).UTC(), StartBoot: 1,
	}}
	for _, r := range want {
		must(t, dir.Write(r))
		got, err := dir.Read(r.Sandbox)
		if diff := cmp.Diff(r, got); diff != "" || err != nil {
			t.Errorf("Read = %v (-want +got):\n%s", err, diff)
		}
	}
	got, err := dir.ReadAll()
	if diff := cmp.Diff(sandboxrecord.Contents{Records: want}, got); diff != "" || err != nil {
		t.Errorf("ReadAll = %v (-want +got):\n%s", err, diff)
	}
	for path, mode := range map[string]os.FileMode{"": 0o700, "aa.json": 0o600} {
		if info, err := os.Stat(filepath.Join(string(dir), path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, %v, want mode %v", path, info, err, mode)
		}
	}
	if got, want := want[0].End(), time.Date(2026, 3, 1, 12, 59, 56, 673456790, time.UTC); !got.Equal(want) {
		t.Errorf("End = %v, want %v", got, want)
	}
	for range 2 { // missing on removal is success
		for _, r := range want {
			must(t, dir.Remove(r.Sandbox))
		}
	}
	if _, err := dir.Read("aa"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read after Remove = %v, want ErrNotExist", err)
	}
}

// TestWhatIsNoRecordIsNamed: none of these is lost, read as a record, or keeps the others from being read.
func TestWhatIsNoRecordIsNamed(t *testing.T) {
	good := `{"sandbox":"@","bootID":"b","qemu":{"pid":2,"ticks":2},"vmm":{"pid":1,"ticks":1},"start":"2026-01-02T03:04:05.000000006Z","startBoot":20000000}`
	tests := []struct {
		name, content, want string
	}{
		{name: "empty", content: "", want: "unexpected end"},
		{name: "half", content: good[:60], want: "unexpected end"},
		{name: "zeros", content: strings.Repeat("\x00", 512), want: "invalid character"},
		{name: "two", content: good + good, want: "invalid character"},
		{name: "list", content: "[]", want: "cannot unmarshal"},
		{name: "null", content: "null", want: `sandbox ""`},
		{name: "of-another", content: strings.Replace(good, "@", "other", 1), want: `sandbox "other"`},
		{name: "path", content: strings.Replace(good, "@", "../x", 1), want: `"../x"`},
		{name: "negative-pid", content: strings.Replace(good, `"pid":2`, `"pid":-2`, 1), want: "qemu: pid -2"},
		{name: "no-vmm", content: strings.Replace(good, `"pid":1`, `"pid":0`, 1), want: "vmm: pid 0"},
		{name: "no-boot", content: strings.Replace(good, `"bootID":"b"`, `"bootID":""`, 1), want: "bootID"},
		{name: "ancient", content: strings.Replace(good, "2026", "0001", 1), want: "year 1"},
		{name: "far", content: strings.Replace(good, "2026", "9999", 1), want: "year 9999"},
		{name: "ends-before", content: strings.Replace(good, `"startBoot"`, `"endBoot":5,"startBoot"`, 1), want: "endBoot is 5ns"},
		{name: "endless", content: strings.Replace(good, `"startBoot"`, `"endBoot":9223372036854775807,"startBoot"`, 1), want: "endBoot"},
		{name: "overflow", content: strings.Replace(good, `"startBoot"`, `"endBoot":9223372036854775808,"startBoot"`, 1), want: "cannot unmarshal"},
		{name: "resized-before", content: strings.Replace(good, `"startBoot"`, `"resizes":[{"at":7}],"startBoot"`, 1), want: "resizes[0]"},
		{name: "resized-after", content: strings.Replace(good, `"startBoot"`, `"endBoot":20000001,"resizes":[{"at":20000002}],"startBoot"`, 1), want: "resizes[0]"},
		{name: "long", content: strings.Replace(good, `"startBoot"`, `"pod":"`+strings.Repeat("x", 1025)+`","startBoot"`, 1), want: "pod: 1025 bytes"},
		{name: "large", content: good + strings.Repeat(" ", 1<<20), want: "want a file of at most"},
	}
	dir := sandboxrecord.Dir(t.TempDir())
	write := func(name, content string) {
		must(t, os.WriteFile(filepath.Join(string(dir), name), []byte(content), 0o600))
	}
	for _, tt := range tests {
		write(tt.name+".json", strings.Replace(tt.content, "@", tt.name, 1))
	}
	must(t, os.Mkdir(filepath.Join(string(dir), "folder.json"), 0o700))
	must(t, os.Symlink("/dev/zero", filepath.Join(string(dir), "link.json")))
	write("-x.json", good)
	write("good.json", strings.Replace(good, "@", "good", 1))
	write(".other.json.tmp-1", "a file being written is not looked at")
	got, err := dir.ReadAll()
	if err != nil || len(got.Records) != 1 || got.Records[0].Sandbox != "good" {
		t.Errorf("ReadAll = %v, %v, want the good one alone", got.Records, err)
	}
	errs := map[string]string{}
	for _, c := range got.Corrupt {
		errs[c.Sandbox()] = c.Error()
	}
	want := map[string]string{"folder": "want a file", "link": "want a file", "-x": "its name"}
	for _, tt := range tests {
		want[tt.name] = tt.want
	}
	for name, text := range want {
		if !strings.Contains(errs[name], text) || !strings.Contains(errs[name], filepath.Join(string(dir), name+".json")) {
			t.Errorf("%s: %q, want the file's path and %q", name, errs[name], text)
		}
	}
	if len(errs) != len(want) {
		t.Errorf("%d files are corrupt, want %d: %v", len(errs), len(want), errs)
	}
}

func TestWriteRefusesWhatReadWould(t *testing.T) {
	r := sample("a")
	r.EndBoot = 1
	dir := sandboxrecord.Dir(t.TempDir())
	if err := dir.Write(r); err == nil || !strings.Contains(err.Error(), "sandbox a") {
		t.Errorf("Write of a life that ends before it starts = %v", err)
	}
	if entries, err := os.ReadDir(string(dir)); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

func TestSetAsideKeepsAll(t *testing.T) {
	dir := sandboxrecord.Dir(t.TempDir())
	for _, want := range []string{"a.json.bad", "a.json.bad.1", "a.json.bad.2"} {
		must(t, dir.Write(sample("a")))
		must(t, dir.Heartbeat("a", 1))
		got, err := dir.SetAside("a")
		if err != nil || filepath.Base(got) != want {
			t.Errorf("SetAside = %q, %v, want %q", got, err, want)
		}
	}
	if got, err := dir.ReadAll(); err != nil || len(got.Records)+len(got.Corrupt)+len(got.Strays) > 0 {
		t.Errorf("ReadAll = %v, %v, want nothing: not even the heartbeat, which explains the file", got, err)
	}
	if _, err := dir.SetAside("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SetAside of nothing = %v, want ErrNotExist", err)
	}
}

func TestBeat(t *testing.T) {
	dir := sandboxrecord.Dir(t.TempDir())
	if got, err := dir.LastHeartbeat("a"); got != 0 || err != nil {
		t.Errorf("LastHeartbeat without one = %v, %v", got, err)
	}
	must(t, dir.Write(sample("a")))
	for _, want := range []time.Duration{5, 1<<63 - 1, 7 * time.Hour} {
		must(t, dir.Heartbeat("a", want))
		if got, err := dir.LastHeartbeat("a"); got != want || err != nil {
			t.Errorf("LastHeartbeat = %v, %v, want %v", got, err, want)
		}
	}
	if got, _ := dir.ReadAll(); len(got.Strays) > 0 {
		t.Errorf("strays = %v, want none beside a record", got.Strays)
	}
	must(t, os.Remove(filepath.Join(string(dir), "a.json")))
	if got, _ := dir.ReadAll(); !cmp.Equal(got.Strays, []string{"a"}) {
		t.Errorf("strays = %v, want the one whose record is gone", got.Strays)
	}
	for _, content := range []string{"", "1", strings.Repeat("\x00", 20), "-000000000000000001\n", "9999999999999999999\n", strings.Repeat("0", 21)} {
		must(t, os.WriteFile(filepath.Join(string(dir), "a.beat"), []byte(content), 0o600))
		var corrupt *sandboxrecord.Corrupt
		if got, err := dir.LastHeartbeat("a"); !errors.As(err, &corrupt) {
			t.Errorf("LastHeartbeat of %q = %v, %v, want it to be corrupt", content, got, err)
		}
	}
	if err := sandboxrecord.Dir("/nonexistent").Heartbeat("a", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Beat without a folder = %v", err)
	}
}

func TestUnfinishedRecordsAreRemovedWhenTheyAreOld(t *testing.T) {
	dir := sandboxrecord.Dir(t.TempDir())
	now := time.Now()
	for name, age := range map[string]time.Duration{".a.json.tmp-1": 2 * time.Hour, ".b.json.tmp-2": time.Minute, "c.json.tmp-3": 2 * time.Hour, ".d": 2 * time.Hour} {
		path := filepath.Join(string(dir), name)
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Chtimes(path, now.Add(-age), now.Add(-age)))
	}
	must(t, dir.RemoveUnfinished(now))
	var left []string
	entries, err := os.ReadDir(string(dir))
	must(t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{".b.json.tmp-2", ".d", "c.json.tmp-3"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	must(t, sandboxrecord.Dir("/nonexistent").RemoveUnfinished(now))
}

func TestPodOf(t *testing.T) {
	full := func(change map[string]string) map[string]string {
		a := map[string]string{
			"io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-name": "web-1", "io.kubernetes.cri.sandbox-uid": "u",
			api.Spec: "1C2Gi", api.SpecType: "intel", api.ChargeType: "SPOT", api.Workload: "Job/x", api.ResourceTag: `{"team":"a"}`, "other": "x",
		}
		for k, v := range change {
			a[k] = v
		}
		return a
	}
	whole := sandboxrecord.Pod{Namespace: "shop", Name: "web-1", UID: "u", Spec: "1C2Gi", SpecType: "intel", Charge: "SPOT", Workload: "Job/x", Tags: map[string]string{"team": "a"}}
	untagged := whole
	untagged.Tags = nil
	nameless := whole
	nameless.Workload = ""
	tests := []struct {
		name        string
		annotations map[string]string
		want        sandboxrecord.Pod
		wantErr     string
	}{
		{name: "all", annotations: full(nil), want: whole},
		{name: "none", want: sandboxrecord.Pod{}, wantErr: "sandbox-uid is missing"},
		{name: "tags that are a list", annotations: full(map[string]string{api.ResourceTag: `["a"]`}), want: untagged, wantErr: api.ResourceTag},
		{name: "tags that hold numbers", annotations: full(map[string]string{api.ResourceTag: `{"a":"b","c":1}`}), want: untagged, wantErr: api.ResourceTag},
		{name: "tags without end", annotations: full(map[string]string{api.ResourceTag: `{"a":"` + strings.Repeat("x", 9000) + `"}`}), want: untagged, wantErr: "9008 bytes"},
		{name: "tags that grow as they are read", annotations: full(map[string]string{api.ResourceTag: `{"a":"` + strings.Repeat("\xff", 4000) + `"}`}), want: untagged, wantErr: "tags"},
		{name: "a workload without end", annotations: full(map[string]string{api.Workload: strings.Repeat("x", 2000)}), want: nameless, wantErr: "workload"},
		{name: "a workload that is no text", annotations: full(map[string]string{api.Workload: "\xff"}), want: nameless, wantErr: "workload"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sandboxrecord.PodOf(tt.annotations)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Pod (-want +got):\n%s", diff)
			}
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error = %v, want %q", err, tt.wantErr)
			}
			r := sample("a")
			r.Pod = got
			must(t, sandboxrecord.Dir(t.TempDir()).Write(r))
		})
	}
}

func TestFindProcess(t *testing.T) {
	stat := func(name, state string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("7 (" + name + ") " + state + " 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1000 20 18446744073709551615\n")}
	}
	proc := fstest.MapFS{
		"7/stat": stat("a) Z 9 (b", "S"), "8/stat": stat("x", "Z"), "11/stat": &fstest.MapFile{Data: []byte("11 (x) Z 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 3 0 4711 1000 20 18446744073709551615\n")},
		"9/stat": &fstest.MapFile{Data: []byte("9 (x) S")}, "10/other": stat("x", "S"),
		"sys/kernel/random/boot_id": &fstest.MapFile{Data: []byte("some-id\n")},
	}
	if p, alive, err := sandboxrecord.Find(proc, 7); p != (sandboxrecord.Process{PID: 7, Ticks: 4711}) || !alive || err != nil || p.Boot() != 47110*time.Millisecond {
		t.Errorf("Find(7) = %v, %t, %v", p, alive, err)
	}
	if p, alive, err := sandboxrecord.Find(proc, 8); p.Ticks != 4711 || alive || err != nil {
		t.Errorf("Find of a zombie = %v, %t, %v", p, alive, err)
	}
	if p, alive, err := sandboxrecord.Find(proc, 11); p.Ticks != 4711 || !alive || err != nil {
		t.Errorf("Find of one whose first thread has ended = %v, %t, %v", p, alive, err)
	}
	if p, alive, err := sandboxrecord.Find(proc, 6); p != (sandboxrecord.Process{}) || alive || err != nil {
		t.Errorf("Find of none = %v, %t, %v", p, alive, err)
	}
	for _, pid := range []int{9, 10} {
		if _, _, err := sandboxrecord.Find(proc, pid); err == nil {
			t.Errorf("Find(%d) found something", pid)
		}
	}
	for ticks, want := range map[int64]bool{4711: true, 4712: false} {
		if got, err := (sandboxrecord.Process{PID: 7, Ticks: ticks}).Alive(proc); got != want || err != nil {
			t.Errorf("Alive with ticks %d = %t, %v, want %t: the pid may be used again", ticks, got, err, want)
		}
	}
	if id, err := sandboxrecord.BootID(proc); id != "some-id" || err != nil {
		t.Errorf("BootID = %q, %v", id, err)
	}
	real := os.DirFS("/proc")
	if p, alive, err := sandboxrecord.Find(real, os.Getpid()); p.Ticks <= 0 || !alive || err != nil {
		t.Errorf("Find of this process = %v, %t, %v", p, alive, err)
	}
	if id, err := sandboxrecord.BootID(real); len(id) != 36 || err != nil {
		t.Errorf("BootID of this host = %q, %v", id, err)
	}
}
