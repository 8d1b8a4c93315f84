package vmm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// fakeQEMU is the name by which the test binary plays a QEMU that has a monitor and nothing else.
const fakeQEMU = "ld-linux-x86-64.so.2"

// playQEMU agrees with everything until it is told to quit.
func playQEMU() {
	monitor := os.NewFile(fdQMP, "monitor")
	fmt.Fprintln(monitor, `{"QMP":{"version":{},"capabilities":[]}}`)
	for lines := bufio.NewScanner(monitor); lines.Scan(); {
		var call struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &call) != nil || call.Execute == "quit" {
			return
		}
		fmt.Fprintf(monitor, `{"return":{},"id":%s}`+"\n", call.ID)
	}
}

const ociConfig = `{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-name":"web-1",
	"io.kubernetes.cri.sandbox-uid":"uid-1","nodeless.dev/spec":"1C2Gi","nodeless.dev/spec-type":"intel","nodeless.dev/charge-type":"SPOT",
	"nodeless.dev/workload":"Deployment/web","eks.tke.cloud.tencent.com/resource-tag":"{\"team\":\"a\"}"}}`

func ociPod() sandboxrecord.Pod {
	return sandboxrecord.Pod{Namespace: "shop", Name: "web-1", UID: "uid-1", Spec: "1C2Gi", SpecType: "intel", Charge: "SPOT", Workload: "Deployment/web",
		Tags: map[string]string{"team": "a"}}
}

// recordedVM is a microVM, created and not started, whose QEMU is the given program.
func recordedVM(t *testing.T, qemu func(path string) error) (*vm, *logged) {
	t.Helper()
	dir := t.TempDir()
	cfg := HostConfig{Bundle: dir + "/bundle", Accel: AccelTCG, ScratchDir: dir + "/scratch", LogDir: dir + "/log", RecordDir: dir + "/lifespans", NodeName: "host-1", ClusterID: "cls-00000001"}
	must(t, errors.Join(os.MkdirAll(cfg.Bundle+"/qemu/lib", 0o700), os.MkdirAll(cfg.Bundle+"/guest", 0o700), os.MkdirAll(dir+"/oci", 0o700)))
	must(t, errors.Join(qemu(cfg.QEMUCommand()[0]), os.WriteFile(cfg.ScratchTemplate(), []byte("x"), 0o600), os.WriteFile(dir+"/oci/config.json", []byte(ociConfig), 0o600)))
	log := &logged{}
	v := newVM("0123abcd", cfg, slog.New(slog.NewTextHandler(log, nil)))
	v.sandbox, v.jailed = dir+"/oci", unjailed
	must(t, v.create(tryConfig(cfg, filepath.Join(dir, "a.sock"))))
	t.Cleanup(func() { must(t, v.cleanup(false)) })
	return v, log
}

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) has(text string) bool { return strings.Contains(l.String(), text) }

// unjailed starts a stand-in for QEMU, which needs more of the host than QEMU has in its jail.
func unjailed(cmd *exec.Cmd, p jail.Plan) error {
	cmd.Path, cmd.Args, cmd.Env, cmd.Dir = p.Argv[0], p.Argv, p.Env, "/"
	return cmd.Start()
}

func played(path string) error {
	self, err := os.Executable()
	return errors.Join(err, os.Symlink(self, path))
}

func scripted(text string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700) }
}

// runQEMU starts a QEMU that has no guest.
func runQEMU(t *testing.T, v *vm) error {
	t.Helper()
	p, err := v.launch()
	if err != nil {
		return err
	}
	return v.greet(t.Context(), p)
}

func readRecord(t *testing.T, v *vm) sandboxrecord.Record {
	t.Helper()
	r, err := sandboxrecord.Dir(v.cfg.RecordDir).Read(v.id)
	must(t, err)
	return r
}

func TestLifeIsRecorded(t *testing.T) {
	v, log := recordedVM(t, played)
	before, err := bootTime()
	must(t, err)
	must(t, runQEMU(t, v))
	r := readRecord(t, v)
	proc := os.DirFS("/proc")
	qemu, alive, err := sandboxrecord.Find(proc, v.proc.cmd.Process.Pid)
	if !alive || err != nil {
		t.Fatalf("QEMU runs: %t, %v", alive, err)
	}
	self, _, _ := sandboxrecord.Find(proc, os.Getpid())
	id, _ := sandboxrecord.BootID(proc)
	want := sandboxrecord.Record{Sandbox: "0123abcd", Pod: ociPod(), Cluster: "cls-00000001", Node: "host-1", BootID: id, QEMU: qemu, VMM: self, Start: r.Start, StartBoot: qemu.Boot()}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("record as soon as QEMU runs (-want +got):\n%s", diff)
	}
	if r.StartBoot < before-sandboxrecord.Tick || r.StartBoot > before+time.Minute {
		t.Errorf("it started %v after the boot, and was told to at %v", r.StartBoot, before)
	}
	now, err := bootTime()
	must(t, err)
	if off := time.Since(r.Start) - (now - r.StartBoot); off.Abs() > time.Second { // unless somebody sets the clock just now
		t.Errorf("the start by the wall clock is %v off", off)
	}
	v.shutdown()
	after, err := bootTime()
	must(t, err)
	ended := readRecord(t, v)
	want.EndBoot = ended.EndBoot
	if diff := cmp.Diff(want, ended); diff != "" || ended.EndBoot < now || ended.EndBoot > after {
		t.Errorf("record after the end, which is between %v and %v (-want +got):\n%s", now, after, diff)
	}
	if heartbeat, err := sandboxrecord.Dir(v.cfg.RecordDir).LastHeartbeat(v.id); heartbeat != ended.EndBoot || err != nil {
		t.Errorf("last heartbeat = %v, %v, want the end, %v", heartbeat, err, ended.EndBoot)
	}
	if log.has("level=WARN") {
		t.Errorf("log: %s", log)
	}
}

// TestShortLifeIsRecorded: QEMU ends before anybody has spoken to it.
func TestShortLifeIsRecorded(t *testing.T) {
	v, _ := recordedVM(t, scripted("exit 3"))
	if err := runQEMU(t, v); err == nil {
		t.Error("start says nothing")
	}
	v.shutdown()
	if r := readRecord(t, v); r.EndBoot < r.StartBoot || r.EndBoot-r.StartBoot > time.Minute {
		t.Errorf("it ran from %v to %v", r.StartBoot, r.EndBoot)
	}
}

func TestMicroVMOfNobodyRuns(t *testing.T) {
	for name, change := range map[string]func(v *vm) error{
		"no configuration":        func(v *vm) error { return os.Remove(v.sandbox + "/config.json") },
		"no JSON":                 func(v *vm) error { return os.WriteFile(v.sandbox+"/config.json", []byte("{"), 0o600) },
		"a configuration for all": func(v *vm) error { v.sandbox = "/nonexistent"; return nil },
		"no annotations": func(v *vm) error {
			return os.WriteFile(v.sandbox+"/config.json", []byte(`{"annotations":null}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, log := recordedVM(t, played)
			must(t, change(v))
			must(t, runQEMU(t, v))
			if r := readRecord(t, v); !cmp.Equal(r.Pod, sandboxrecord.Pod{}) || !log.has("level=WARN") {
				t.Errorf("Pod = %+v, log: %s", r.Pod, log)
			}
		})
	}
}

func TestMicroVMThatCannotBeRecordedDoesNotRun(t *testing.T) {
	v, _ := recordedVM(t, played)
	must(t, os.WriteFile(v.cfg.RecordDir, nil, 0o600))
	if err := runQEMU(t, v); err == nil || !strings.Contains(err.Error(), "record the microVM's start") {
		t.Errorf("start = %v", err)
	}
	<-v.ended
	if v.proc != nil {
		t.Error("QEMU was kept")
	}
}

func TestWithoutAFolderNothingIsRecorded(t *testing.T) {
	v, log := recordedVM(t, played)
	dir := v.cfg.RecordDir
	v.cfg.RecordDir = ""
	must(t, runQEMU(t, v))
	v.shutdown()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || log.has("level=WARN") {
		t.Errorf("%v; log: %s", err, log)
	}
}

// wantRecord checks the record of a real microVM: as it runs, after its end, and after one that nobody could write.
func (g *guest) wantRecord(qemu int, ended bool) {
	g.t.Helper()
	dir := sandboxrecord.Dir(g.h.cfg.RecordDir)
	r, err := dir.Read(filepath.Base(g.dir))
	if err != nil || r.QEMU.PID != qemu || r.VMM.PID != g.pid || !cmp.Equal(r.Pod, ociPod()) {
		g.t.Errorf("record = %+v, %v, want one of processes %d and %d", r, err, qemu, g.pid)
	}
	if (r.EndBoot != 0) != ended {
		g.t.Errorf("the record has the end %v, want one: %t", r.EndBoot, ended)
	}
	if heartbeat, err := dir.LastHeartbeat(r.Sandbox); heartbeat < r.StartBoot || err != nil || ended && heartbeat != r.EndBoot {
		g.t.Errorf("last heartbeat = %v, %v of a life from %v to %v", heartbeat, err, r.StartBoot, r.EndBoot)
	}
}

func TestANewSpecIsRecordedOnce(t *testing.T) {
	dir := sandboxrecord.Dir(t.TempDir())
	l := &life{dir: dir, record: sandboxrecord.Record{
		Sandbox: "0123abcd", Pod: ociPod(), BootID: "boot", QEMU: sandboxrecord.Process{PID: 1, Ticks: 1}, VMM: sandboxrecord.Process{PID: 2, Ticks: 2},
		Start: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), StartBoot: time.Minute,
	}}
	for i, to := range []podsize.Size{{CPU: 1000, Memory: 2 * podsize.Gi}, {CPU: 2000, Memory: 4 * podsize.Gi}, {CPU: 2000, Memory: 4 * podsize.Gi}, {CPU: 250, Memory: podsize.Gi / 2}} {
		must(t, l.resize(to, time.Minute+time.Duration(i)*time.Second))
	}
	got, err := dir.Read("0123abcd")
	must(t, err)
	want := []sandboxrecord.Resize{{At: time.Minute + time.Second, Spec: "2C4Gi", SpecType: "intel"}, {At: time.Minute + 3*time.Second, Spec: "0.25C0.5Gi", SpecType: "intel"}}
	if diff := cmp.Diff(want, got.Resizes); diff != "" {
		t.Errorf("resizes (-want +got):\n%s", diff)
	}
	l.record.EndBoot = 2 * time.Minute
	if err := l.resize(podsize.Size{CPU: 1000, Memory: podsize.Gi}, 3*time.Minute); err == nil {
		t.Error("a microVM that has ended got another spec")
	}
}
