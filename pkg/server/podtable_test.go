package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// podRow is a line of testdata/pods.table: what becomes of a field for a tenant.
type podRow struct {
	kind, field     string
	verdict, sample string
}

func (r podRow) String() string { return r.kind + "." + r.field }

// readPodTable gives the rows, and those of the subresources by their names.
func readPodTable(t *testing.T) (rows map[string]podRow, subresources map[string]podRow) {
	t.Helper()
	text, err := os.ReadFile("testdata/pods.table")
	if err != nil {
		t.Fatal(err)
	}
	rows, subresources = make(map[string]podRow), make(map[string]podRow)
	kind := ""
	for i, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, " | ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			kind = strings.Trim(line, "[]")
		case len(cells) != 4 || cells[3] == "" || !slices.Contains([]string{"allowed", "refused", "operator", "removed"}, cells[1]):
			t.Fatalf("pods.table:%d: %q is no row", i+1, line)
		case kind == "pods":
			subresources[cells[0]] = podRow{kind, cells[0], cells[1], ""}
		default:
			r := podRow{kind, cells[0], cells[1], cells[2]}
			if r.sample == "-" {
				r.sample = ""
			}
			if r.verdict != "allowed" && r.sample == "" {
				t.Errorf("pods.table:%d: %s is %s, and there is no value to try", i+1, r, r.verdict)
			}
			rows[r.String()] = r
		}
	}
	return rows, subresources
}

// expectEveryField walks the types of a Pod. What is below a field that a tenant cannot set is nobody's business.
func expectEveryField(t *testing.T, rows map[string]podRow) {
	t.Helper()
	there := map[string]bool{}
	seen := map[reflect.Type]bool{}
	var walk func(of reflect.Type)
	var fields func(of reflect.Type, name string) []reflect.Type
	fields = func(of reflect.Type, name string) (below []reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous && tag == "" {
				if f.Type != reflect.TypeFor[metav1.TypeMeta]() {
					below = append(below, fields(f.Type, name)...)
				}
				continue
			}
			key := name + "." + tag
			there[key] = true
			row, ok := rows[key]
			if !ok {
				t.Errorf("pods.table has no row for %s; decide what becomes of it for a tenant", key)
			} else if row.verdict == "allowed" {
				below = append(below, f.Type)
			}
		}
		return below
	}
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
			of = of.Elem()
		}
		ours := of.PkgPath() == reflect.TypeFor[corev1.Pod]().PkgPath() || of == reflect.TypeFor[metav1.ObjectMeta]()
		if of.Kind() != reflect.Struct || !ours || seen[of] {
			return
		}
		seen[of] = true
		for _, next := range fields(of, of.Name()) {
			walk(next)
		}
	}
	walk(reflect.TypeFor[corev1.Pod]())
	walk(reflect.TypeFor[corev1.EphemeralContainer]()) // by its subresource
	for key := range rows {
		if !there[key] {
			t.Errorf("pods.table has a row for %s, which a Pod has not", key)
		}
	}
	if len(there) < 300 {
		t.Errorf("a Pod has %d fields, want all of Kubernetes", len(there))
	}
}

// frame is a Pod's spec, or an ephemeral container, with @ where a field goes.
type frame struct {
	text      string
	ephemeral bool
}

const plainContainer = `{"name":"c","image":"i"}`

// inVolume is a frame with a volume.
func inVolume(text string) []frame {
	return []frame{{text: `"containers":[` + plainContainer + `],"volumes":[{"name":"v",` + text + `}]`}}
}

// inContainers are frames with each kind of container; ephemeral ones have no probes, hooks and ports.
func inContainers(text string, ephemeral bool) []frame {
	const volumes = `"volumes":[{"name":"v","emptyDir":{}}],`
	all := []frame{
		{text: volumes + `"containers":[{"name":"c","image":"i",` + text + `}]`},
		{text: volumes + `"containers":[` + plainContainer + `],"initContainers":[{"name":"b","image":"i","restartPolicy":"Always",` + text + `}]`},
	}
	if ephemeral {
		all = append(all, frame{text, true})
	}
	return all
}

// asked are frames with each kind of probe and hook.
func asked(text string) (all []frame) {
	for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		all = append(all, inContainers(`"`+probe+`":{`+text+`}`, false)...)
	}
	for _, hook := range []string{"postStart", "preStop"} {
		all = append(all, inContainers(`"lifecycle":{"`+hook+`":{`+text+`}}`, false)...)
	}
	return all
}

// frames is where the fields of a type are tried.
func frames(kind string) []frame {
	const label = `"securityContext":{"seLinuxOptions":{@}}`
	term := func(text string) frame {
		return frame{text: `"containers":[` + plainContainer + `],"affinity":{` + text + `}`}
	}
	const required, affinityTerm = `{"requiredDuringSchedulingIgnoredDuringExecution":[`, `{"topologyKey":"kubernetes.io/hostname","labelSelector":{},@}`
	switch kind {
	case "PodSpec":
		return []frame{{text: `"containers":[` + plainContainer + `],@`}}
	case "Volume":
		return inVolume(`@`)
	case "VolumeProjection":
		return inVolume(`"projected":{"sources":[{@}]}`)
	case "ProjectedVolumeSource":
		return inVolume(`"projected":{"sources":[],@}`)
	case "SecretVolumeSource":
		return inVolume(`"secret":{"secretName":"x",@}`)
	case "ConfigMapVolumeSource":
		return inVolume(`"configMap":{"name":"x",@}`)
	case "DownwardAPIVolumeSource":
		return inVolume(`"downwardAPI":{"items":[],@}`)
	case "KeyToPath":
		return inVolume(`"configMap":{"name":"x","items":[{"key":"k","path":"p",@}]}`)
	case "DownwardAPIVolumeFile":
		return inVolume(`"downwardAPI":{"items":[{"path":"p","fieldRef":{"fieldPath":"metadata.name"},@}]}`)
	case "ServiceAccountTokenProjection":
		return inVolume(`"projected":{"sources":[{"serviceAccountToken":{"path":"p",@}}]}`)
	case "ClusterTrustBundleProjection":
		return inVolume(`"projected":{"sources":[{"clusterTrustBundle":{"name":"x","path":"p",@}}]}`)
	case "PodCertificateProjection":
		return inVolume(`"projected":{"sources":[{"podCertificate":{"signerName":"a.example/b","keyType":"ED25519","credentialBundlePath":"p",@}}]}`)
	case "EmptyDirVolumeSource":
		return inVolume(`"emptyDir":{@}`)
	case "EphemeralContainer":
		return []frame{{`@`, true}}
	case "ContainerPort":
		return inContainers(`"ports":[{"containerPort":80,@}]`, false)
	case "EnvVarSource":
		return inContainers(`"env":[{"name":"A","valueFrom":{@}}]`, true)
	case "VolumeMount":
		return inContainers(`"volumeMounts":[{"name":"v","mountPath":"/v",@}]`, false)
	case "HTTPGetAction":
		return asked(`"httpGet":{"port":80,@}`)
	case "TCPSocketAction":
		return asked(`"tcpSocket":{"port":80,@}`)
	case "GRPCAction":
		return inContainers(`"livenessProbe":{"grpc":{"port":80,@}}`, false)
	case "Lifecycle":
		return inContainers(`"lifecycle":{@}`, false)
	case "SecurityContext":
		return inContainers(`"securityContext":{@}`, true)
	case "PodSecurityContext":
		return []frame{{text: `"containers":[` + plainContainer + `],"securityContext":{@}`}}
	case "SELinuxOptions":
		return append(inContainers(label, true), frame{text: `"containers":[` + plainContainer + `],` + label})
	case "Sysctl":
		return []frame{{text: `"containers":[` + plainContainer + `],"securityContext":{"sysctls":[{"value":"1",@}]}`}}
	case "PodAffinityTerm":
		return []frame{
			term(`"podAntiAffinity":` + required + affinityTerm + `]}`), term(`"podAffinity":` + required + affinityTerm + `]}`),
			term(`"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":` + affinityTerm + `}]}`),
		}
	}
	return nil
}

// trial is a request with a field in it.
type trial struct {
	row   podRow
	frame frame
	class string // a RuntimeClass that the Pod names
}

// send sends it, as one that changes nothing, and gives the object as it would be.
func (tr trial) send(ctx context.Context, client kubernetes.Interface) (made any, err error) {
	field := fmt.Sprintf("%q:%s", tr.row.field, tr.row.sample)
	text := strings.Replace(tr.frame.text, "@", field, 1)
	var answer rest.Result
	if tr.frame.ephemeral {
		patch := `{"spec":{"ephemeralContainers":[{"name":"e","image":"i",` + text + `}]}}`
		answer = client.CoreV1().RESTClient().Patch(types.StrategicMergePatchType).Namespace("a").Resource("pods").Name("there").SubResource("ephemeralcontainers").
			Param("dryRun", "All").Body([]byte(patch)).Do(ctx)
	} else {
		if tr.class != "" && tr.row.field != "runtimeClassName" {
			text += fmt.Sprintf(`,"runtimeClassName":%q`, tr.class)
		}
		answer = client.CoreV1().RESTClient().Post().Namespace("a").Resource("pods").Param("dryRun", "All").SetHeader("Content-Type", "application/json").
			Body([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"try"},"spec":{` + text + `}}`)).Do(ctx)
	}
	if err := answer.Error(); err != nil {
		return nil, err
	}
	body, err := answer.Raw()
	if err != nil {
		return nil, err
	}
	return made, json.Unmarshal(body, &made)
}

// wrong says what is wrong with the answer, or nothing.
func (tr trial) wrong(made any, err error) string {
	kept := apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
	names := func(text string) bool {
		return err != nil && strings.Contains(strings.ToLower(err.Error()), strings.ToLower(text))
	}
	verdict, field := tr.row.verdict, tr.row.field
	if tr.class != "" {
		if !kept || !names("runtimeClassName") && !names(field) {
			return "want it refused: who makes it may not use the class"
		}
		// A user namespace is for what runs on a host, and the overhead is that of the class.
		if (verdict == "refused" || verdict == "operator") && field != "hostUsers" && field != "overhead" && !names(field) {
			return "want the field refused whatever the class"
		}
		return ""
	}
	switch {
	case (verdict == "refused" || verdict == "operator") && (!kept || !names(field)):
		return "want it refused, and the field named"
	case (verdict == "allowed" || verdict == "removed") && err != nil:
		return "want it let in"
	case verdict == "removed" && holds(made, field, tr.row.sample):
		return "want it without the field"
	}
	return ""
}

// holds tells whether a field with a value is anywhere in an object.
func holds(object any, field, sample string) bool {
	var value any
	if json.Unmarshal([]byte(sample), &value) != nil {
		return true
	}
	switch o := object.(type) {
	case map[string]any:
		for key, member := range o {
			if key == field && reflect.DeepEqual(member, value) || holds(member, field, sample) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(o, func(member any) bool { return holds(member, field, sample) })
	}
	return false
}

// testPodTable holds the table against Kubernetes' types and tries what it says.
func (p *people) testPodTable(t *testing.T) {
	rows, subresources := readPodTable(t)
	expectEveryField(t, rows)
	p.expectSubresources(t, subresources)
	tried := 0
	for _, row := range rows {
		if row.sample == "" || row.kind == "Pod" { // its status is tried below
			continue
		}
		all := frames(row.kind)
		if len(all) == 0 {
			t.Errorf("%s: there is no frame to try it in", row)
		}
		for _, f := range all {
			for _, class := range []string{"", "other"} {
				if f.ephemeral && class != "" || row.verdict == "allowed" && class != "" {
					continue
				}
				tr := trial{row, f, class}
				made, err := tr.send(t.Context(), p.clients["alice"])
				if wrong := tr.wrong(made, err); wrong != "" {
					t.Errorf("%s %q (class %q) in %s: %s, got %v", row, row.sample, class, f.text, wrong, err)
				}
				tried++
			}
		}
	}
	forged := simplePod("forged-status")
	forged.Status = corev1.PodStatus{PodIP: "10.99.0.1", HostIP: "10.99.0.1", Phase: corev1.PodRunning}
	made, err := p.clients["alice"].CoreV1().Pods("a").Create(t.Context(), forged, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || made.Status.PodIP != "" || made.Status.Phase != corev1.PodPending {
		t.Errorf("a new Pod with a status: %v, %+v", err, made)
	}
	t.Logf("%d fields, %d requests", len(rows), tried)
}

// expectSubresources holds the table against what the cluster serves, and tries those that a tenant has not.
func (p *people) expectSubresources(t *testing.T, rows map[string]podRow) {
	t.Helper()
	served, err := p.admin.Discovery().ServerResourcesForGroupVersion("v1")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, r := range served.APIResources {
		if sub, ok := strings.CutPrefix(r.Name, "pods/"); ok {
			there[sub] = true
			if _, ok := rows[sub]; !ok {
				t.Errorf("pods.table has no row for pods/%s; decide what a tenant may do with it", sub)
			}
		}
	}
	for sub, row := range rows {
		if !there[sub] {
			t.Errorf("pods.table has a row for pods/%s, which is not served", sub)
		}
		if row.verdict != "refused" {
			continue
		}
		for _, verb := range []string{"POST", "PUT", "PATCH"} {
			if err := raw(p.clients["alice"], verb, "/api/v1/namespaces/a/pods/there/"+sub)(t.Context()); !apierrors.IsForbidden(err) {
				t.Errorf("%s pods/%s: %v, want it refused", verb, sub, err)
			}
		}
	}
}
