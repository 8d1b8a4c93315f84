package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/users"
	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackPods tries what a tenant can say of a Pod, and the ways around the rules: other objects that make Pods, subresources, other
// RuntimeClasses, DaemonSets that are added to others' Pods. DaemonSets are added to Pods here.
func TestAttackPods(t *testing.T) {
	if !inOwnHost(t) {
		return
	}
	dir := t.TempDir()
	server := startServer(t, dir, injectEnv+"=tools")
	p := newPeople(t, server, dir)
	p.add(t, users.Request{Name: "alice", Namespaces: []string{"a", "a2"}, Life: time.Hour})
	p.add(t, users.Request{Name: "bob", Namespaces: []string{"b"}, Life: time.Hour})
	p.add(t, users.Request{Name: "olga", Operator: true, Life: time.Hour})
	p.furnish(t)
	p.furnishClasses(t)

	t.Run("table", p.testPodTable)
	p.attackVolumes(t)
	p.attackAmounts(t)
	p.attackByContainers(t)
	p.attackClasses(t)
	p.attackPriority(t)
	p.attackByInjection(t)
	p.attackGrace(t)
	t.Run("warning", p.testNetworkPolicyWarning)
	t.Run("annotation", func(t *testing.T) { // what keeps a Pod out cannot be put onto one that is in
		forged := map[string]any{"metadata": map[string]any{"annotations": map[string]string{"tke.cloud.tencent.com/eip-public-ip": "192.0.2.1"}}}
		if err := patch(p.clients["alice"], "/api/v1/namespaces/a/pods/there", forged)(t.Context()); !apierrors.IsInvalid(err) {
			t.Errorf("a public address by an update: %v, want it refused", err)
		}
	})
	server.stop(t)
}

// furnishClasses makes the classes that an operator may have.
func (p *people) furnishClasses(t *testing.T) {
	t.Helper()
	if _, err := p.admin.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Handler: "runc"}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]int32{"high": 1000, "low": -5} {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
		if _, err := p.clients["olga"].SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// ended says how a request ended that should be refused.
func ended(t *testing.T, err error, field string) attack.Outcome {
	t.Helper()
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), field) {
		t.Errorf("got %v, want it refused for %s", err, field)
		return attack.Succeeded
	}
	return attack.Refused
}

// attackVolumes tries each kind of volume that the table says is refused, in each object that makes Pods, and by a subresource.
func (p *people) attackVolumes(t *testing.T) {
	rows, _ := readPodTable(t)
	for _, row := range rows {
		if row.kind != "Volume" && row.kind != "VolumeProjection" || row.verdict == "allowed" {
			continue
		}
		attack.Try(t, "T1", "a volume of kind "+row.field, func(t *testing.T) attack.Outcome {
			_, err := trial{row: row, frame: frames(row.kind)[0]}.send(t.Context(), p.clients["alice"])
			return ended(t, err, row.field)
		})
	}
	disk := corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{FC: &corev1.FCVolumeSource{TargetWWNs: []string{"0|.*-part2$|x"}, Lun: new(int32)}}}
	attack.Try(t, "T1", "a host's disk by a controller", func(t *testing.T) attack.Outcome {
		return p.byReplicaSet(t, "disk", func(spec *corev1.PodSpec) { spec.Volumes = []corev1.Volume{disk} }, ".fc")
	})
	attack.Try(t, "T1", "a volume that comes with an ephemeral container", func(t *testing.T) attack.Outcome {
		ctx, alice := t.Context(), p.clients["alice"]
		added := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}}}
		change := map[string]any{"spec": map[string]any{"volumes": []any{disk}, "ephemeralContainers": []any{added}}}
		if err := patch(alice, "/api/v1/namespaces/a/pods/there/ephemeralcontainers", change)(ctx); err != nil {
			return ended(t, err, "disk")
		}
		after, err := alice.CoreV1().Pods("a").Get(ctx, "there", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(after.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "disk" }) {
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T1", "a PersistentVolume of a host's disk", func(t *testing.T) attack.Outcome {
		_, err := p.clients["alice"].CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "mine"},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{FC: disk.FC}}}, metav1.CreateOptions{})
		return ended(t, err, "persistentvolumes")
	})
}

// byReplicaSet has the controller make a Pod, and waits for what it is told.
func (p *people) byReplicaSet(t *testing.T, name string, change func(*corev1.PodSpec), field string) attack.Outcome {
	t.Helper()
	ctx, alice, labels := t.Context(), p.clients["alice"], map[string]string{"app": name}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: simplePod("x").Spec}}}
	change(&set.Spec.Template.Spec)
	if _, err := alice.AppsV1().ReplicaSets("a").Create(ctx, set, metav1.CreateOptions{}); err != nil {
		return ended(t, err, field)
	}
	end := attack.Succeeded
	eventually(t, "what becomes of the ReplicaSet's Pod", func(ctx context.Context) (bool, error) {
		now, err := alice.AppsV1().ReplicaSets("a").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range now.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && strings.Contains(c.Message, field) {
				end = attack.Refused
				return true, nil
			}
		}
		return now.Status.Replicas > 0, fmt.Errorf("its conditions are %v", now.Status.Conditions)
	})
	return end
}

// attackByContainers tries what a container can ask of a host, and of the server's process.
func (p *people) attackByContainers(t *testing.T) {
	rows, _ := readPodTable(t)
	for key, threat := range map[string]string{"HTTPGetAction.host": "T10", "TCPSocketAction.host": "T10", "EnvVarSource.fileKeyRef": "T4", "PodAffinityTerm.namespaceSelector": "T6"} {
		for i, f := range frames(rows[key].kind) {
			attack.Try(t, threat, fmt.Sprintf("%s, place %d", key, i), func(t *testing.T) attack.Outcome {
				_, err := trial{row: rows[key], frame: f}.send(t.Context(), p.clients["alice"])
				return ended(t, err, rows[key].field)
			})
		}
	}
	attack.Try(t, "T4", "a variable from a file by a Deployment", func(t *testing.T) attack.Outcome {
		d := deployment()
		d.Name = "files"
		d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "v"}}
		d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "v", Path: "p", Key: "K"}}}}
		_, err := p.clients["alice"].AppsV1().Deployments("a").Create(t.Context(), d, metav1.CreateOptions{})
		return ended(t, err, "variables are not read from files")
	})
}

// attackClasses tries to have a Pod that is no microVM.
func (p *people) attackClasses(t *testing.T) {
	alice, other, yes := p.clients["alice"], "other", true
	name := func(spec *corev1.PodSpec) { spec.RuntimeClassName = &other }
	attack.Try(t, "T9", "a Pod of another RuntimeClass", func(t *testing.T) attack.Outcome {
		return ended(t, createPod(alice, "a", func(pod *corev1.Pod) { name(&pod.Spec) })(t.Context()), "spec.runtimeClassName")
	})
	attack.Try(t, "T9", "another RuntimeClass by a controller", func(t *testing.T) attack.Outcome {
		return p.byReplicaSet(t, "other-class", name, "spec.runtimeClassName")
	})
	attack.Try(t, "T9", "a binding that names a right of one's own", func(t *testing.T) attack.Outcome {
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "own-use"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"node.k8s.io"}, Resources: []string{"runtimeclasses"}, Verbs: []string{"use"}}}}
		_, err := alice.RbacV1().Roles("a").Create(t.Context(), role, metav1.CreateOptions{})
		return ended(t, err, "own-use")
	})
	// Outside of a microVM a Pod has no spec, so for the quota it says what it needs.
	outside := func(podName string) *corev1.Pod {
		pod := simplePod(podName)
		name(&pod.Spec)
		needs := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: needs, Limits: needs}
		return pod
	}
	if _, err := p.admin.CoreV1().Pods("a").Create(t.Context(), outside("outside"), metav1.CreateOptions{}); err != nil {
		t.Errorf("the administrator may have a Pod of another class: %v", err)
	}
	attack.Try(t, "T9", "a privileged container added to a Pod outside of a microVM", func(t *testing.T) attack.Outcome {
		added := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &yes}}}
		change := map[string]any{"spec": map[string]any{"ephemeralContainers": []any{added}}}
		return ended(t, patch(alice, "/api/v1/namespaces/a/pods/outside/ephemeralcontainers", change)(t.Context()), "spec.runtimeClassName")
	})
	attack.Try(t, "T9", "another image in a Pod outside of a microVM", func(t *testing.T) attack.Outcome {
		_, err := alice.CoreV1().Pods("a").Patch(t.Context(), "outside", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","image":"mine"}]}}`), metav1.PatchOptions{})
		return ended(t, err, "spec.runtimeClassName")
	})
	for _, sub := range []string{"exec?command=id", "attach", "portforward?ports=22", "proxy/"} {
		attack.Try(t, "T9", "into a Pod outside of a microVM by "+strings.FieldsFunc(sub, func(r rune) bool { return r == '?' || r == '/' })[0], func(t *testing.T) attack.Outcome {
			eventually(t, "the Pod in the apiserver's view", func(ctx context.Context) (bool, error) {
				err := raw(alice, "GET", "/api/v1/namespaces/a/pods/outside/"+sub)(ctx)
				return apierrors.IsForbidden(err), err
			})
			return ended(t, raw(alice, "GET", "/api/v1/namespaces/a/pods/outside/"+sub)(t.Context()), "spec.runtimeClassName")
		})
		if err := raw(p.admin, "GET", "/api/v1/namespaces/a/pods/outside/"+sub)(t.Context()); apierrors.IsForbidden(err) {
			t.Errorf("%s by the administrator: %v", sub, err)
		}
	}
	p.give(t, p.admin, "node.k8s.io", "runtimeclasses", "other", "system:serviceaccounts:a2")
	eventually(t, "a Pod of a class that its ServiceAccount was given", func(ctx context.Context) (bool, error) {
		pod := outside("given-class")
		pod.Spec.HostNetwork, pod.Spec.Volumes = true, []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		_, err := alice.CoreV1().Pods("a2").Create(ctx, pod, metav1.CreateOptions{})
		return err == nil, err
	})
}

// give lets a group use a class in the namespace a2.
func (p *people) give(t *testing.T, by kubernetes.Interface, group, resource, class, to string) {
	t.Helper()
	name := "use-" + class
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: []string{class}, Verbs: []string{"use"}}}}
	if _, err := by.RbacV1().Roles("a2").Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: to}}}
	if _, err := by.RbacV1().RoleBindings("a2").Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// attackPriority tries to have others' Pods pushed out.
func (p *people) attackPriority(t *testing.T) {
	alice, olga := p.clients["alice"], p.clients["olga"]
	class := func(name string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Name, pod.Spec.PriorityClassName = "class-"+name, name }
	}
	for _, name := range []string{"high", "system-cluster-critical"} {
		attack.Try(t, "T24", "a Pod of the class "+name, func(t *testing.T) attack.Outcome {
			return ended(t, createPod(alice, "a", class(name))(t.Context()), "spec.priorityClassName")
		})
	}
	attack.Try(t, "T24", "a high class by a controller", func(t *testing.T) attack.Outcome {
		return p.byReplicaSet(t, "high-class", func(spec *corev1.PodSpec) { spec.PriorityClassName = "high" }, "spec.priorityClassName")
	})
	if err := createPod(alice, "a", class("low"))(t.Context()); err != nil {
		t.Errorf("a Pod that goes before others: %v", err)
	}
	// An operator gives what it has.
	p.give(t, olga, "scheduling.k8s.io", "priorityclasses", "high", "system:serviceaccounts:a2")
	eventually(t, "a Pod of a class that its ServiceAccount was given", func(ctx context.Context) (bool, error) {
		err := createPod(alice, "a2", class("high"))(ctx)
		return err == nil, err
	})
	usual := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 10, GlobalDefault: true}
	if _, err := olga.SchedulingV1().PriorityClasses().Create(t.Context(), usual, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a Pod of the class that is everybody's", func(ctx context.Context) (bool, error) {
		pod, err := alice.CoreV1().Pods("a").Create(ctx, simplePod("usual"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && pod.Spec.PriorityClassName == "usual", err
	})
	if err := olga.SchedulingV1().PriorityClasses().Delete(t.Context(), "usual", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// attackByInjection tries to get a container into others' Pods.
func (p *people) attackByInjection(t *testing.T) {
	ctx, yes := t.Context(), true
	agent := func(client kubernetes.Interface, namespace string) {
		labels := map[string]string{"app": "agent"}
		_, err := client.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "from-" + namespace}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{api.EKS + "ds-injection": "true"}},
				Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{Privileged: &yes}}}}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tools"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	agent(p.admin, "kube-system")
	agent(p.admin, "tools")
	agent(p.clients["bob"], "b")
	companions := func(who, namespace string) (names []string) {
		pod, err := p.clients[who].CoreV1().Pods(namespace).Create(ctx, simplePod("with"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range pod.Spec.InitContainers {
			names = append(names, c.Name)
		}
		return names
	}
	eventually(t, "companions of bob's own Pod", func(context.Context) (bool, error) {
		got := companions("bob", "b")
		return slices.Equal(got, []string{"from-b-c", "from-kube-system-c", "from-tools-c"}), fmt.Errorf("they are %v", got)
	})
	attack.Try(t, "T2", "a tenant's DaemonSet in another's Pod", func(t *testing.T) attack.Outcome {
		if got := companions("alice", "a"); !slices.Equal(got, []string{"from-kube-system-c", "from-tools-c"}) {
			t.Errorf("companions of alice's Pod: %v", got)
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// attackGrace tries to keep a spot Pod's capacity.
func (p *people) attackGrace(t *testing.T) {
	const year, most = int64(365 * 24 * 3600), int64(30) // there is no notice here, so it is the least
	alice, year64 := p.clients["alice"], year
	ctx := t.Context()
	pod := simplePod("cheap")
	pod.Annotations, pod.Spec.TerminationGracePeriodSeconds = map[string]string{api.SpotPod: "true"}, &year64
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: &year64, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
	attack.Try(t, "T11", "a spot Pod with a year to end in", func(t *testing.T) attack.Outcome {
		made, err := alice.CoreV1().Pods("a").Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, probe := *made.Spec.TerminationGracePeriodSeconds, *made.Spec.Containers[0].LivenessProbe.TerminationGracePeriodSeconds; got != most || probe != most {
			t.Errorf("it has %d seconds, and %d after a probe, want %d", got, probe, most)
			return attack.Succeeded
		}
		return attack.Contained
	})
	attack.Try(t, "T11", "a spot Pod deleted with a year to end in", func(t *testing.T) attack.Outcome {
		if err := p.admin.CoreV1().Pods("a").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "cheap"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node1"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := alice.CoreV1().Pods("a").Delete(ctx, "cheap", metav1.DeleteOptions{GracePeriodSeconds: &year64}); err != nil {
			return ended(t, err, "grace")
		}
		eventually(t, "a shorter end of the Pod", func(ctx context.Context) (bool, error) {
			now, err := alice.CoreV1().Pods("a").Get(ctx, "cheap", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			return err == nil && now.DeletionGracePeriodSeconds != nil && *now.DeletionGracePeriodSeconds <= most, err
		})
		return attack.Contained
	})
}

// told collects warnings.
type told struct {
	mu   sync.Mutex
	said []string // guarded by mu
}

func (w *told) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

// testNetworkPolicyWarning: who relies on a NetworkPolicy hears that it is not enforced. Who makes a workload hears what its Pods are
// refused for.
func (p *people) testNetworkPolicyWarning(t *testing.T) {
	var w told
	cfg := rest.CopyConfig(p.configs["alice"])
	cfg.WarningHandler = &w
	alice := kubernetes.NewForConfigOrDie(cfg)
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "closed"}}
	if _, err := alice.NetworkingV1().NetworkPolicies("a").Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	other, d := "other", deployment()
	d.Name = "warned"
	d.Spec.Template.Spec.PriorityClassName, d.Spec.Template.Spec.RuntimeClassName = "high", &other
	if _, err := alice.AppsV1().Deployments("a").Create(t.Context(), d, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, part := range []string{"not enforced yet", "will be refused: spec.template.spec.runtimeClassName", "will be refused: spec.template.spec.priorityClassName"} {
		if !slices.ContainsFunc(w.said, func(text string) bool { return strings.Contains(text, part) }) {
			t.Errorf("warnings %q, want one with %q", w.said, part)
		}
	}
}
