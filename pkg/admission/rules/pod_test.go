package rules

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/api"
)

// podWith is a Pod with one container, changed.
func podWith(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{}, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
	for _, fn := range change {
		fn(pod)
	}
	return pod
}

func annotated(pairs ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			pod.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func volume(name string, source corev1.VolumeSource) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
}

func hostPath(name string) func(*corev1.Pod) {
	return volume(name, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}})
}

func variable(from corev1.EnvVarSource) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &from}} }
}

func probed(host string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: host}}}
	}
}

func port(p corev1.ContainerPort) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, p) }
}

func sysctl(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		if pod.Spec.SecurityContext == nil {
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
		}
		pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: name, Value: "1"})
	}
}

// denials are the texts of what is refused.
func denials(f Findings) (texts []string) {
	for _, e := range f.Denials {
		texts = append(texts, e.Error())
	}
	return texts
}

// The messages as docs/annotations.md has them, and TestDocumentHasTheMessages.
const (
	sayHostPath   = `spec.volumes[0].hostPath: Forbidden: volume "etc": a Pod is a microVM of its own and has no files of a host. Use emptyDir for what may go with the Pod, a ConfigMap or a Secret for files to read, a PersistentVolumeClaim for what must stay`
	saySource     = `spec.volumes[0].fc: Forbidden: volume "disk": the host itself would mount it, by what the Pod says. A Pod has volumes of the kinds emptyDir, configMap, secret, downwardAPI, projected, image, ephemeral and persistentVolumeClaim; ask the operator for a PersistentVolume or a StorageClass of what you need`
	sayHost       = `spec.containers[0].livenessProbe.httpGet.host: Forbidden: the host asks, in its own network; it asks the Pod and nobody else. Leave host empty; for another name in the request set the header Host`
	sayHostPort   = `spec.containers[0].ports[0].hostPort: Forbidden: port 8080 of a host cannot be had: a Pod has an address of its own. Remove hostPort and reach port 80 by the Pod's address or by a Service`
	sayTaken      = `spec.containers[0].ports[0].hostPort: Forbidden: port 10250 of every host is the kubelet's. Choose another one`
	sayHostIP     = `spec.containers[0].ports[0].hostIP: Forbidden: Pods have IPv4 alone. Leave it empty for all addresses of the host, or name one of IPv4`
	saySysctl     = `spec.securityContext.sysctls[0].name: Forbidden: sysctl "kernel.msgmax" cannot be set, only net.* and kernel.shm_rmid_forced can. Remove it, or set it in a privileged init container (sysctl -w): the kernel is the Pod's own`
	sayFileKeyRef = `spec.containers[0].env[0].valueFrom.fileKeyRef: Forbidden: variables are not read from files that a container has written: the host would read them. Have the program read the file itself, or use a ConfigMap or a Secret`
	sayReserved   = `spec.containers[0].ports[0].containerPort (container "main"): 9100/TCP is reserved for a metrics exporter of a later version; nothing else listens there today. Use another port, or move the exporter by the annotation eks.tke.cloud.tencent.com/metrics-port`
	sayRefused    = `metadata.annotations[internal.eks.tke.cloud.tencent.com/init-script]: Forbidden: no script runs at the start of the microVM. Use an init container, a privileged one if it sets up the kernel`
	sayEIP        = `metadata.annotations[tke.cloud.tencent.com/eip-public-ip]: Forbidden: only the cluster writes it: whoever reads it takes it for the Pod's public address. Remove it`
)

func TestDeniedFields(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want []string
	}{
		{"a path of the host", podWith(hostPath("etc")), []string{sayHostPath}},
		{"in a volume of another kind", podWith(volume("disk", corev1.VolumeSource{FC: &corev1.FCVolumeSource{}})), []string{saySource}},
		{"a variable from a file", podWith(variable(corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}})), []string{sayFileKeyRef}},
		{"a probe of another host", podWith(probed("127.0.0.1")), []string{sayHost}},
		{"in kube-system too", podWith(hostPath("etc"), func(p *corev1.Pod) { p.Namespace = "kube-system" }), []string{sayHostPath}},
		{"a name nobody should print", podWith(hostPath("e\n\xff")), []string{strings.Replace(sayHostPath, `"etc"`, `"e\n\xff"`, 1)}},
		{"a port of the host", podWith(port(corev1.ContainerPort{ContainerPort: 80, HostPort: 8080})), []string{sayHostPort}},
		{"a port of the host that is the container's", podWith(port(corev1.ContainerPort{ContainerPort: 80, HostPort: 80})),
			[]string{strings.Replace(sayHostPort, "8080", "80", 1)}},
		{"a port of the host, by UDP, of an init container", podWith(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolUDP}}}}
		}), []string{strings.Replace(sayHostPort, "containers", "initContainers", 1)}},
		{"a sysctl of System V", podWith(sysctl("kernel.msgmax")), []string{saySysctl}},
		{"the same with slashes", podWith(sysctl("kernel/msgmax")), []string{strings.Replace(saySysctl, "kernel.msgmax", "kernel/msgmax", 1)}},
		{"a sysctl whose name begins like net", podWith(sysctl("network.x")), []string{strings.Replace(saySysctl, "kernel.msgmax", "network.x", 1)}},
		{"everything at once", podWith(hostPath("etc"), port(corev1.ContainerPort{ContainerPort: 80, HostPort: 8080}), sysctl("kernel.msgmax"),
			annotated(internalEKS+"init-script", "true", tke+"eip-public-ip", "192.0.2.1")),
			[]string{sayHostPath, sayHostPort, saySysctl, sayRefused, sayEIP}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Pod(tt.pod, Settings{}, false)
			if diff := cmp.Diff(tt.want, denials(got)); diff != "" {
				t.Errorf("denials (-want +got):\n%s", diff)
			}
			if len(got.Warnings) > 0 {
				t.Errorf("warnings %q, want none", got.Warnings)
			}
		})
	}
}

func TestAllowedFields(t *testing.T) {
	yes := true
	privileged := func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes} }
	for _, tt := range []struct {
		name     string
		pod      *corev1.Pod
		settings Settings
	}{
		{name: "a plain Pod", pod: podWith()},
		{name: "an empty one", pod: &corev1.Pod{}},
		{name: "privileged", pod: podWith(privileged)},
		{name: "sysctls of the network", pod: podWith(sysctl("net.core.somaxconn"), sysctl("net/ipv4/ip_local_port_range"), sysctl("net/ipv4/conf/eth0.1/forwarding"))},
		{name: "the sysctl that every kubelet takes", pod: podWith(sysctl("kernel.shm_rmid_forced"), sysctl("kernel/shm_rmid_forced"))},
		{name: "volumes of a Pod", pod: podWith(volume("a", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
			volume("b", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}),
			volume("c", corev1.VolumeSource{}), volume("d", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}), volume("e", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}))},
		{name: "a probe of the Pod", pod: podWith(probed(""))},
		{name: "a variable", pod: podWith(variable(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}))},
		{name: "a path of the host where the operator allows it", pod: podWith(hostPath("etc")), settings: Settings{HostPath: []string{"tools", "default"}}},
		{name: "host network: the apiserver fills in the ports", pod: podWith(port(corev1.ContainerPort{ContainerPort: 80, HostPort: 80}),
			func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
		{name: "host network that admission has taken out", pod: podWith(port(corev1.ContainerPort{ContainerPort: 80, HostPort: 80}),
			annotated(hostNamespaces, "network,pid"))},
		{name: "the reserved port by UDP", pod: podWith(port(corev1.ContainerPort{ContainerPort: 9100, Protocol: corev1.ProtocolUDP}))},
		{name: "annotations of others", pod: podWith(annotated("prometheus.io/scrape", "true", "eks.amazonaws.com/role-arn", "x", "note", "y", "tke.cloud.tencent.com/networks", "z",
			"service.cloud.tencent.com/security-groups", "sg-1", "nodeless.dev/spec", "1C2Gi", "cpu.example.org/cpu", "4"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Pod(tt.pod, tt.settings, false); len(got.Denials) > 0 || len(got.Warnings) > 0 {
				t.Errorf("findings %v %q, want none", got.Denials, got.Warnings)
			}
		})
	}
}

// TestHostPorts: where the operator allows ports of the host, a Pod has them, but for those that are the host's own.
func TestHostPorts(t *testing.T) {
	settings := Settings{HostPorts: true, Taken: []Taken{{10250, 10250, "the kubelet's"}, {30000, 32767, "one for node ports"}}}
	for _, tt := range []struct {
		name string
		port corev1.ContainerPort
		want []string
	}{
		{"free", corev1.ContainerPort{ContainerPort: 80, HostPort: 8080}, nil},
		{"on one address", corev1.ContainerPort{ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"}, nil},
		{"on all addresses", corev1.ContainerPort{ContainerPort: 80, HostPort: 8080, HostIP: "0.0.0.0", Protocol: corev1.ProtocolSCTP}, nil},
		{"the kubelet's", corev1.ContainerPort{ContainerPort: 80, HostPort: 10250, Protocol: corev1.ProtocolUDP}, []string{sayTaken}},
		{"the last of a range", corev1.ContainerPort{ContainerPort: 80, HostPort: 32767},
			[]string{"spec.containers[0].ports[0].hostPort: Forbidden: port 32767 of every host is one for node ports. Choose another one"}},
		{"of IPv6", corev1.ContainerPort{ContainerPort: 80, HostPort: 8080, HostIP: "::1"}, []string{sayHostIP}},
		{"both", corev1.ContainerPort{ContainerPort: 80, HostPort: 10250, HostIP: "::"}, []string{sayTaken, sayHostIP}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, denials(Pod(podWith(port(tt.port)), settings, false))); diff != "" {
				t.Errorf("denials (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReservedPort(t *testing.T) {
	on := func(n int32) func(*corev1.Pod) {
		return port(corev1.ContainerPort{ContainerPort: n, Protocol: corev1.ProtocolTCP})
	}
	const unhonoured = "metadata.annotations[eks.tke.cloud.tencent.com/metrics-port]: not honoured yet: nothing serves metrics in the Pod; the port is the one that is warned of in place of 9100"
	moved := strings.NewReplacer("9100", "9200", "or move the exporter by the annotation", "here or in the annotation", "another port, ", "another port ").Replace(sayReserved)
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want []string
	}{
		{"the usual one", podWith(on(9100)), []string{sayReserved}},
		{"no protocol is TCP", podWith(port(corev1.ContainerPort{ContainerPort: 9100})), []string{sayReserved}},
		{"of an init container", podWith(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{ContainerPort: 9100}}}}
		}),
			[]string{strings.Replace(sayReserved, "containers", "initContainers", 1)}},
		{"moved away", podWith(on(9100), annotated(metricsPort, "9200")), []string{unhonoured}},
		{"moved here", podWith(on(9200), annotated(metricsPort, "9200")), []string{moved, unhonoured}},
		{"moved nowhere", podWith(on(9100), annotated(metricsPort, "99999")), []string{sayReserved, unhonoured}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Pod(tt.pod, Settings{}, false)
			if diff := cmp.Diff(tt.want, got.Warnings); diff != "" || len(got.Denials) > 0 {
				t.Errorf("denials %v, warnings (-want +got):\n%s", got.Denials, diff)
			}
		})
	}
}

// TestHostileObjects: whatever an object has, the answer is short, on lines of its own, and text.
func TestHostileObjects(t *testing.T) {
	many := func(key func(i int) string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			for i := range 10_000 {
				pod.Annotations[key(i)] = "x"
			}
		}
	}
	long := strings.Repeat("é", 128<<10)
	for _, tt := range []struct {
		name               string
		pod                *corev1.Pod
		denials, warnings  int
		lastDenial, lastOf string
	}{
		{"10,000 annotations of others", podWith(many(func(i int) string { return fmt.Sprintf("example.org/key-%d", i) })), 0, 0, "", ""},
		{"10,000 unknown ones", podWith(many(func(i int) string { return fmt.Sprintf("%scpu-%d", api.EKS, i) })), 0, 33, "", "9968 more warnings that are not listed"},
		{"10,000 with long prefixes", podWith(many(func(i int) string { return fmt.Sprintf("%s%d.tencent.com/cpu", strings.Repeat("x", 240), i) })), 0, 0, "", ""},
		{"10,000 bare ones", podWith(many(func(i int) string { return fmt.Sprintf("eks.%d", i) })), 0, 0, "", ""},
		{"10,000 paths of the host", podWith(func(p *corev1.Pod) {
			for range 10_000 {
				hostPath(long)(p)
			}
		}), 65, 0, "spec: Forbidden: 9937 more faults that are not listed", ""},
		{"long values", podWith(annotated(api.SpotPod, long, api.ResourceTag, long, api.EKS+"resolv-conf", long, metricsPort, long)), 2, 2, "", ""},
		{"a long key", podWith(annotated(api.EKS+long, "x", long, "y", long+"/"+long, "z")), 0, 1, "", ""},
		{"not UTF-8", podWith(annotated(api.EKS+"\xff\xfe", "\xff", api.SpotPod, "\xff\x00\n", api.ResourceTag, "{\"a\":\"\xff\"}")), 2, 1, "", ""},
		{"lines in a key", podWith(annotated(api.EKS+"cp\nu", "x", "eks.tke.cloud.tencent.com\n/cpu", "y")), 0, 2, "", ""},
		{"a slash only", podWith(annotated("/", "", api.EKS, "", "eks.", "")), 0, 1, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Pod(tt.pod, Settings{}, false)
			if len(got.Denials) != tt.denials || len(got.Warnings) != tt.warnings {
				t.Errorf("%d denials and %d warnings, want %d and %d: %v %q", len(got.Denials), len(got.Warnings), tt.denials, tt.warnings, got.Denials, got.Warnings)
			}
			wellFormed(t, got)
			if tt.lastDenial != "" && got.Denials[len(got.Denials)-1].Error() != tt.lastDenial {
				t.Errorf("the last denial is %v, want %s", got.Denials[len(got.Denials)-1], tt.lastDenial)
			}
			if tt.lastOf != "" && got.Warnings[len(got.Warnings)-1] != tt.lastOf {
				t.Errorf("the last warning is %q, want %q", got.Warnings[len(got.Warnings)-1], tt.lastOf)
			}
		})
	}
}

// wellFormed checks what every answer must be.
func wellFormed(t testing.TB, f Findings) {
	t.Helper()
	for _, text := range append(denials(f), f.Warnings...) {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\r\x00") {
			t.Errorf("not a line of text: %q", text)
		}
		if len(text) > 4096 {
			t.Errorf("a finding of %d bytes: %.80q", len(text), text)
		}
	}
	if len(f.Denials) > maxDenials+1 || len(f.Warnings) > 2*(maxDenials+maxWarnings+1) {
		t.Errorf("%d denials and %d warnings", len(f.Denials), len(f.Warnings))
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, ok := range []Settings{{}, {HostPath: []string{"tools"}, DaemonSets: PolicyRun}, {InjectFrom: []string{"tools", "logs"}, DaemonSets: PolicyInject}, {DaemonSets: PolicyDeny}} {
		if err := ok.Validate(); err != nil {
			t.Errorf("Validate(%+v) = %v", ok, err)
		}
	}
	wrong := Settings{HostPath: []string{"*"}, DaemonSets: "Inject"}
	const want = "hostPath volumes: \"*\" cannot be a namespace\npolicy for DaemonSets: \"Inject\": want \"park\", \"deny\", \"run\" or \"inject\""
	if err := wrong.Validate(); err == nil || err.Error() != want {
		t.Errorf("Validate = %v, want %s", err, want)
	}
	if got := Pod(podWith(hostPath("etc")), wrong, false); len(got.Denials) != 1 {
		t.Error("a setting that does not exist lets a path of the host in")
	}
}

// typical is a Pod as they are: an application with a sidecar, a service account's token, and a few annotations.
func typical() *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	return podWith(annotated("prometheus.io/scrape", "true", "prometheus.io/port", "8080", "kubectl.kubernetes.io/restartedAt", "2026-01-01T00:00:00Z",
		api.CPU, "2", api.Memory, "4Gi", api.SpotPod, "true", api.ResourceTag, `{"team":"web","stage":"test"}`),
		volume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}), volume("tmp", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		volume("token", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}), port(corev1.ContainerPort{ContainerPort: 8080}), sysctl("net.core.somaxconn"),
		func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "proxy", Image: "proxy:1", RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 15001}}}}
		})
}

func BenchmarkPod(b *testing.B) {
	pod := typical()
	b.ReportAllocs()
	for b.Loop() {
		if f := Pod(pod, Settings{}, false); len(f.Denials)+len(f.Warnings) > 0 {
			b.Fatal(f)
		}
	}
}

func BenchmarkHostilePod(b *testing.B) {
	pod := podWith()
	for i := range 10_000 {
		pod.Annotations[fmt.Sprintf("%scpu-%d", api.EKS, i)] = "x"
	}
	b.ReportAllocs()
	for b.Loop() {
		Pod(pod, Settings{}, false)
	}
}
