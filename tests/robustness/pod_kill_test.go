package robustness_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// panicked is a victim too: the guest's kernel, as when its PID 1 dies.
const panicked = "guest"

// killing is one process of a Pod killed at one stage of its life.
type killing struct {
	victim, stage string
}

func (k killing) String() string { return k.victim + "-" + k.stage }

// stages are the moments of a Pod's life.
var stages = map[string]func(killing, *space, *rand.Rand){
	"starts":    killing.whileStarting,
	"boots":     killing.whileBooting,
	"contains":  killing.whileContaining,
	"runs":      killing.whileRunning,
	"runs-once": killing.whileRunningOnce,
	"execs":     killing.whileExecuting,
	"goes":      killing.whileGoing,
}

// killings lists every victim at every stage. A guest must be up before it can panic at somebody's wish.
func killings() []killing {
	var all []killing
	for _, stage := range []string{"starts", "boots", "contains", "runs", "runs-once", "execs", "goes"} {
		for _, victim := range []string{shim, vmm, qemu, virtiofsd, panicked} {
			early := stage == "starts" || stage == "boots" || stage == "contains"
			if victim != panicked || !early {
				all = append(all, killing{victim, stage})
			}
		}
	}
	return all
}

// TestFaultPodKill: each process of a Pod is killed at each stage of the Pod's life. The Pod comes back or goes as its
// policy says, its status and events tell of it, and nothing is left on the host.
func TestFaultPodKill(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), time.Hour)
	r := dice(t)
	all := killings()
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, k := range all[:count(len(all), 1)] {
		t.Run(k.String(), func(t *testing.T) { stages[k.stage](k, s.with(t), r) })
	}
	s.clean()
}

// kill ends the victim now and tells whether there was one.
func (k killing) kill(p *patient) bool {
	p.T.Helper()
	if k.victim != panicked {
		return p.signal(k.victim, syscall.SIGKILL) > 0
	}
	ctx, cancel := context.WithTimeout(p.Ctx, 10*time.Second)
	defer cancel()
	// The answer never comes: the kernel is gone.
	cmd := p.Host.Command(ctx, p.Host.Program, "kubectl", "-n", p.Name, "exec", p.pod, "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
	out, err := cmd.CombinedOutput()
	if err == nil {
		p.T.Errorf("the guest outlived its panic: %s", out)
	}
	return true
}

// pod is the name of the case's Pod.
func (k killing) pod() string { return strings.ReplaceAll(strings.ToLower(k.String()), "_", "-") }

// begin makes the Pod of an early stage.
func (k killing) begin(s *space) *patient { return s.admit(k.pod(), nurse(k.pod(), "Always", false)) }

// comesBack: a Pod whose start was disturbed runs in the end, and was told about.
func (k killing) comesBack(p *patient, hit bool) {
	p.T.Helper()
	took := p.within(replaced, "runs in spite of it", alive)
	p.T.Logf("ready %v after the fault", took.Round(time.Second))
	if hit && !p.told("FailedCreatePodSandBox", "SandboxChanged", "Failed", "BackOff", "Unhealthy") {
		p.T.Error("no event tells what happened to the Pod")
	}
	p.discharge(deleted)
}

func (k killing) whileStarting(s *space, r *rand.Rand) {
	p := k.begin(s)
	p.await(k.victim)
	pause(s.Ctx, time.Duration(r.IntN(200))*time.Millisecond)
	k.comesBack(p, k.kill(p))
}

func (k killing) whileBooting(s *space, r *rand.Rand) {
	p := k.begin(s)
	p.await(qemu)
	pause(s.Ctx, time.Duration(r.IntN(2500))*time.Millisecond)
	k.comesBack(p, k.kill(p))
}

func (k killing) whileContaining(s *space, r *rand.Rand) {
	p := k.begin(s)
	p.within(time.Minute, "has a sandbox", booted)
	pause(s.Ctx, time.Duration(r.IntN(800))*time.Millisecond)
	k.comesBack(p, k.kill(p))
}

// booted says that the Pod's microVM is there and its containers are being made.
func booted(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// running makes a Pod and waits until it runs.
func (k killing) running(s *space, restart string) *patient {
	s.T.Helper()
	p := s.admit(k.pod(), nurse(k.pod(), restart, k.victim == panicked))
	p.within(replaced, "runs", alive)
	return p
}

func (k killing) whileRunning(s *space, _ *rand.Rand) {
	p := k.running(s, "Always")
	k.kill(p)
	noticedIt := func(pod *corev1.Pod) bool { return !alive(pod) || restarted(pod) } // a quick restart hides that it was not ready
	p.T.Logf("noticed after %v", p.within(noticed, "is not ready", noticedIt).Round(time.Second))
	p.T.Logf("ready again after %v more", p.within(replaced, "was restarted", restarted).Round(time.Second))
	if !p.told("SandboxChanged", "BackOff") {
		p.T.Error("no event tells that the Pod got a new microVM")
	}
	p.discharge(deleted)
}

func (k killing) whileRunningOnce(s *space, _ *rand.Rand) {
	p := k.running(s, "Never")
	k.kill(p)
	p.T.Logf("failed after %v", p.within(noticed, "has failed", failed).Round(time.Second))
	p.discharge(deleted)
}

func (k killing) whileExecuting(s *space, r *rand.Rand) {
	p := k.running(s, "Always")
	ctx, cancel := context.WithTimeout(s.Ctx, hangNoticed)
	defer cancel()
	cmd := s.Host.Command(ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", p.pod, "--", "sh", "-c", "echo begun; sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.T.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.T.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		s.T.Fatalf("exec did not begin: %v", err)
	}
	pause(s.Ctx, time.Duration(r.IntN(300))*time.Millisecond)
	k.kill(p)
	began := time.Now()
	err = cmd.Wait()
	if _, ended := err.(*exec.ExitError); !ended || ctx.Err() != nil { //nolint:errorlint // straight from os/exec
		s.T.Errorf("exec ended with %v after %v, want a failure of its own", err, time.Since(began))
	}
	s.T.Logf("exec ended %v after the fault", time.Since(began).Round(time.Second))
	p.within(replaced, "was restarted", restarted)
	p.discharge(deleted)
}

func (k killing) whileGoing(s *space, r *rand.Rand) {
	p := k.running(s, "Always")
	if k.victim == panicked { // the guest must still take the order
		k.kill(p)
		s.Kubectl("delete", "pod", p.pod, "--wait=false")
	} else {
		s.Kubectl("delete", "pod", p.pod, "--wait=false")
		pause(s.Ctx, time.Duration(r.IntN(3000))*time.Millisecond)
		k.kill(p)
	}
	s.T.Logf("gone after %v", p.within(deleted, "is deleted", gone).Round(time.Second))
}

// TestFaultPodContainerdKill: containerd is killed while Pods are made, run, are looked into and go. The server says why
// it ends; the next one finds the running Pod as it was and brings the others to where they were going.
func TestFaultPodContainerdKill(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), 30*time.Minute)
	r := dice(t)
	for i := range 5 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { killContainerd(s.with(t), r) })
	}
	s.clean()
}

func killContainerd(s *space, r *rand.Rand) {
	t := s.T
	witness := s.admit("witness", nurse("witness", "Always", false))
	going := s.admit("going", nurse("going", "Always", false))
	witness.within(replaced, "runs", alive)
	going.within(replaced, "runs", alive)
	boot := s.MustExec("witness", "cat", "/proc/sys/kernel/random/boot_id")
	look := s.Host.Command(s.Ctx, s.Host.Program, "kubectl", "-n", s.Name, "exec", "witness", "--", "sleep", "1000")
	if err := look.Start(); err != nil {
		t.Fatal(err)
	}
	coming := s.admit("coming", nurse("coming", "Always", false))
	pause(s.Ctx, time.Duration(r.IntN(2500))*time.Millisecond)
	s.Kubectl("delete", "pod", "going", "--wait=false")
	pause(s.Ctx, time.Duration(r.IntN(2500))*time.Millisecond)

	for _, pid := range s.Processes(t, " containerd --config ") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(s.Ctx, time.Minute)
	defer cancel()
	if err := s.Server.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("the server ended with %v, want a fault", err)
	}
	if last := s.Server.Tail(5); !strings.Contains(last, "containerd ended: signal: killed") {
		t.Errorf("the server does not say why it ended:\n%s", last)
	}
	if err := look.Wait(); err == nil {
		t.Error("exec ended well without a server")
	}
	if err := s.Start(s.Ctx); err != nil { // as systemd would
		t.Fatal(err)
	}
	going.within(deleted, "is deleted", gone)
	coming.within(replaced, "runs", alive)
	s.Until("exec works again", func() (bool, error) {
		out, code := s.Exec("witness", "true")
		return code == 0, fmt.Errorf("code %d: %s", code, out)
	})
	if got := s.MustExec("witness", "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("the running Pod's microVM was booted again")
	}
	coming.discharge(deleted)
	witness.discharge(deleted)
}

// TestFaultPodMadeAtKill: the server, and containerd with it, is killed while containers are made in a Pod that is deleted afterwards.
// The Pod goes as any other. Every second time its guest stands still meanwhile, so that what the killed containerd asked for is under
// way when the next one looks.
func TestFaultPodMadeAtKill(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), time.Hour)
	r := dice(t)
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) { killWhileContaining(s.with(t), r, fmt.Sprintf("made-%d", i), i%2 == 1) })
	}
	s.clean()
}

func killWhileContaining(s *space, r *rand.Rand, name string, still bool) {
	pod := nurse(name, "Always", false)
	_, one, found := strings.Cut(pod, "  - name: main\n")
	if !found {
		s.T.Fatalf("no container to copy in:\n%s", pod)
	}
	for _, more := range []string{"second", "third"} { // more containers, more time in which one is made
		pod += "  - name: " + more + "\n" + one
	}
	p := s.admit(name, pod)
	p.within(replaced, "has a sandbox", booted)
	pause(s.Ctx, time.Duration(r.IntN(2500))*time.Millisecond)
	if still {
		p.signal(qemu, syscall.SIGSTOP)
		pause(s.Ctx, time.Duration(r.IntN(500))*time.Millisecond)
	}
	if err := s.Kill(s.Ctx); err != nil {
		s.T.Fatal(err)
	}
	if err := s.Start(s.Ctx); err != nil {
		s.T.Fatal(err)
	}
	if still {
		pause(s.Ctx, time.Duration(r.IntN(15))*time.Second) // containerd gives a container ten to be found
		p.signal(qemu, syscall.SIGCONT)
	}
	s.T.Logf("gone after %v", p.discharge(deleted).Round(time.Second))
}
