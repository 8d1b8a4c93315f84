package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/users"
)

func roleBinding(name, kind, role, username string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: username}},
	}
}

// bind tries to give a ClusterRole in a namespace.
func bind(client kubernetes.Interface, ns, role string) func(context.Context) error {
	return func(ctx context.Context) error {
		b := roleBinding("", "ClusterRole", role, "somebody")
		b.GenerateName = "try-"
		_, err := client.RbacV1().RoleBindings(ns).Create(ctx, b, metav1.CreateOptions{})
		return err
	}
}

func bindEverywhere(client kubernetes.Interface, role string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "somebody"}},
		}, metav1.CreateOptions{})
		return err
	}
}

// role tries to make a Role with one rule.
func role(client kubernetes.Interface, ns, group, resource, verb string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}},
		}, metav1.CreateOptions{})
		return err
	}
}

// patch tries a merge patch by path.
func patch(client kubernetes.Interface, path string, change any) func(context.Context) error {
	return func(ctx context.Context) error {
		body, err := json.Marshal(change)
		if err != nil {
			return err
		}
		return client.Discovery().RESTClient().Patch(types.MergePatchType).RequestURI(path).Body(body).Do(ctx).Error()
	}
}

func labelled() any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]string{"tried": "yes"}}}
}

func createPod(client kubernetes.Interface, ns string, change func(*corev1.Pod)) func(context.Context) error {
	return func(ctx context.Context) error {
		pod := simplePod("")
		pod.GenerateName = "try-"
		if change != nil {
			change(pod)
		}
		_, err := client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
}

func reviewToken(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, metav1.CreateOptions{})
		return err
	}
}

func askForOthers(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "bob", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}}}, metav1.CreateOptions{})
		return err
	}
}

func token(client kubernetes.Interface, ns string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return err
	}
}

func deployment() *appsv1.Deployment {
	none, labels := int32(0), map[string]string{"app": "web"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: simplePod("").Spec},
	}}
}

// askForCertificate is what signs for anybody, if one may approve it too.
func askForCertificate(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "try-"},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Request: []byte("x"), SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}},
		}, metav1.CreateOptions{})
		return err
	}
}

// parkedDaemonSet makes one that would run on every host, and lets it try to leave its label. No node has that.
func parkedDaemonSet(client kubernetes.Interface, ns string) func(context.Context) error {
	return func(ctx context.Context) error {
		d := deployment()
		sets := client.AppsV1().DaemonSets(ns)
		made, err := sets.Create(ctx, &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		path := "/apis/apps/v1/namespaces/" + ns + "/daemonsets/agent"
		without := map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"nodeSelector": nil}}}}
		if err := patch(client, path, without)(ctx); err != nil {
			return err
		}
		if made, err = sets.Get(ctx, "agent", metav1.GetOptions{}); err == nil && made.Spec.Template.Spec.NodeSelector["nodeless.dev/daemonsets"] != "park" {
			return fmt.Errorf("the DaemonSet looks for nodes with %v", made.Spec.Template.Spec.NodeSelector)
		}
		return err
	}
}

// chartRole makes the Role of a program that runs Pods, as charts have it (Airflow's, Argo's, Jenkins'), with verbs that mean nothing and
// a group that is no more.
func chartRole(client kubernetes.Interface, ns string) func(context.Context) error {
	return func(ctx context.Context) error {
		every := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
		read := every[:3]
		_, err := client.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "chart"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/exec", "pods/attach", "pods/portforward", "events"}, Verbs: every},
			{APIGroups: []string{""}, Resources: []string{"pods/log", "pods/status", "services/status", "namespaces"}, Verbs: read},
			{APIGroups: []string{"apps", "extensions"}, Resources: []string{"deployments", "deployments/scale", "replicasets"}, Verbs: every},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments/status", "statefulsets/status", "daemonsets/status"}, Verbs: read},
			{APIGroups: []string{"batch"}, Resources: []string{"jobs/status"}, Verbs: read},
			{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"localsubjectaccessreviews"}, Verbs: []string{"create"}},
		}}, metav1.CreateOptions{})
		return err
	}
}

// tenantAttempts are those of alice, and a few of bob.
func (p *people) tenantAttempts() []attempt {
	alice, bob := p.clients["alice"], p.clients["bob"]
	yes := true
	get := func(path string) func(context.Context) error { return raw(alice, http.MethodGet, path) }
	return append([]attempt{
		{"see the own namespace", works, get("/api/v1/namespaces/a")},
		{"list own Pods", works, get("/api/v1/namespaces/a2/pods")},
		{"make a Pod", works, createPod(alice, "a", nil)},
		{"make a privileged Pod", works, createPod(alice, "a", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
		})},
		{"read an own Secret", works, get("/api/v1/namespaces/a/secrets/there")},
		{"make a Deployment", works, func(ctx context.Context) error {
			_, err := alice.AppsV1().Deployments("a").Create(ctx, deployment(), metav1.CreateOptions{})
			return err
		}},
		{"scale it", works, patch(alice, "/apis/apps/v1/namespaces/a/deployments/web/scale", map[string]any{"spec": map[string]any{"replicas": 0}})},
		{"have a token of an own ServiceAccount", works, token(alice, "a")},
		{"see StorageClasses", works, get("/apis/storage.k8s.io/v1/storageclasses")},
		{"see figures of own Pods", reaches, get("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods")}, // nothing is measured here
		{"exec into an own Pod", reaches, raw(alice, http.MethodPost, "/api/v1/namespaces/a/pods/there/exec?command=id")},
		{"make a Role of what one has", works, role(alice, "a", "", "secrets", "get")},
		{"share the namespace", works, func(ctx context.Context) error {
			list, err := p.keeper.List(ctx)
			if err != nil {
				return err
			}
			_, err = alice.RbacV1().RoleBindings("a2").Create(ctx, roleBinding("guest", "ClusterRole", users.RoleTenant, list[1].Username), metav1.CreateOptions{})
			return err
		}},

		{"choose a host for a Pod", invalid, createPod(alice, "a", func(pod *corev1.Pod) { pod.Spec.NodeName = "node1" })},
		{"push others' Pods out", invalid, createPod(alice, "a", func(pod *corev1.Pod) { pod.Spec.PriorityClassName = "system-node-critical" })},
		{"mount a folder of a host", invalid, createPod(alice, "a", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		})},
		{"take a host's port", invalid, createPod(alice, "a", func(pod *corev1.Pod) {
			pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		})},
		{"make a DaemonSet, which has no Pods", works, parkedDaemonSet(alice, "a")},
		{"make the Role of a chart", works, chartRole(alice, "a")},
		{"make a Role by which one is another account", refused, role(alice, "a", "", "serviceaccounts", "impersonate")},
		{"make a Role by which endpoints are written", refused, role(alice, "a", "discovery.k8s.io", "endpointslices", "update")},
		{"make a Role by which a Pod's address is written", refused, role(alice, "a", "", "pods/status", "update")},
		{"take a host's address for a Service", refused, func(ctx context.Context) error {
			_, err := alice.CoreV1().Services("a").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "thief"},
				Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 6443}}, ExternalIPs: []string{"10.99.0.1"}}}, metav1.CreateOptions{})
			return err
		}},
		{"have a Pod for nothing", works, func(ctx context.Context) error {
			pod := simplePod("")
			pod.Name, pod.Annotations = "forged", map[string]string{api.Spec: "0.25C0.5Gi", api.ChargeType: api.ChargeSpot}
			made, err := alice.CoreV1().Pods("a").Create(ctx, pod, metav1.CreateOptions{})
			if err == nil && (made.Annotations[api.Spec] != "1C2Gi" || made.Annotations[api.ChargeType] != api.ChargePostPaid) {
				return fmt.Errorf("the Pod has annotations %v", made.Annotations)
			}
			return err
		}},

		{"list others' Pods", refused, get("/api/v1/namespaces/b/pods")},
		{"list everybody's Pods", refused, get("/api/v1/pods")},
		{"watch everybody's Pods", refused, get("/api/v1/pods?watch=true&timeoutSeconds=1")},
		{"list everybody's Secrets", refused, get("/api/v1/secrets")},
		{"read another's Secret", refused, get("/api/v1/namespaces/b/secrets/there")},
		{"read another's log", refused, get("/api/v1/namespaces/b/pods/there/log")},
		{"exec into another's Pod", refused, raw(alice, http.MethodPost, "/api/v1/namespaces/b/pods/there/exec?command=id")},
		{"exec into another's Pod by GET", refused, get("/api/v1/namespaces/b/pods/there/exec?command=id")},
		{"attach to another's Pod", refused, raw(alice, http.MethodPost, "/api/v1/namespaces/b/pods/there/attach")},
		{"forward a port of another's Pod", refused, raw(alice, http.MethodPost, "/api/v1/namespaces/b/pods/there/portforward")},
		{"reach another's Pod through the apiserver", refused, get("/api/v1/namespaces/b/pods/there/proxy/")},
		{"reach whoever has the address of a Pod that has ended", refused, get("/api/v1/namespaces/a/pods/https:over:6443/proxy/livez")},
		{"make a Pod among others'", refused, createPod(alice, "b", nil)},
		{"delete another's Pod", refused, raw(alice, http.MethodDelete, "/api/v1/namespaces/b/pods/there")},
		{"evict another's Pod", refused, raw(alice, http.MethodPost, "/api/v1/namespaces/b/pods/there/eviction")},
		{"have a token of another's ServiceAccount", refused, token(alice, "b")},
		{"see another's bills", refused, get("/apis/billing.nodeless.dev/v1/namespaces/b/bills")},
		{"see another's figures", refused, get("/apis/metrics.k8s.io/v1beta1/namespaces/b/pods")},
		{"see another's custom metrics", refused, get("/apis/custom.metrics.k8s.io/v1beta2/namespaces/b/pods/*/x")},

		{"list nodes", refused, get("/api/v1/nodes")},
		{"see a node", refused, get("/api/v1/nodes/node1")},
		{"see a node's figures", refused, get("/apis/metrics.k8s.io/v1beta1/nodes")},
		{"reach a kubelet", refused, get("/api/v1/nodes/node1/proxy/pods")},
		{"read a host's logs by the kubelet", refused, get("/api/v1/nodes/node1/proxy/logs/")},
		{"read the host's logs", refused, get("/logs/")},
		{"read the apiserver's metrics", refused, get("/metrics")},
		{"profile the apiserver", refused, get("/debug/pprof/")},
		{"see the apiserver's flags", refused, get("/flagz")},
		{"list leases of nodes", refused, get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")},
		{"list PersistentVolumes", refused, get("/api/v1/persistentvolumes")},
		{"list RuntimeClasses", refused, get("/apis/node.k8s.io/v1/runtimeclasses")},
		{"list CSINodes", refused, get("/apis/storage.k8s.io/v1/csinodes")},
		{"see where the apiserver is", refused, get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")},
		{"read the cluster's ConfigMaps", refused, get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")},
		{"list namespaces", refused, get("/api/v1/namespaces")},
		{"see another's namespace", refused, get("/api/v1/namespaces/b")},
	}, append(p.tenantWrites(), attempt{"be a guest", works, func(ctx context.Context) error {
		_, err := bob.CoreV1().Pods("a2").List(ctx, metav1.ListOptions{})
		return err
	}}, attempt{"be a guest elsewhere", refused, raw(bob, http.MethodGet, "/api/v1/namespaces/a/pods")})...)
}

// tenantWrites are the ways to more rights, or into others' traffic.
func (p *people) tenantWrites() []attempt {
	alice := p.clients["alice"]
	return []attempt{
		{"make a namespace", refused, func(ctx context.Context) error {
			_, err := alice.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}, metav1.CreateOptions{})
			return err
		}},
		{"label the own namespace", refused, patch(alice, "/api/v1/namespaces/a", labelled())},
		{"delete the own namespace", refused, raw(alice, http.MethodDelete, "/api/v1/namespaces/a")},
		{"set the own quota", refused, func(ctx context.Context) error {
			_, err := alice.CoreV1().ResourceQuotas("a").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "mine"}}, metav1.CreateOptions{})
			return err
		}},
		{"point a Service by hand", refused, func(ctx context.Context) error {
			_, err := alice.DiscoveryV1().EndpointSlices("a").Create(ctx, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, AddressType: discoveryv1.AddressTypeIPv4}, metav1.CreateOptions{})
			return err
		}},
		{"say where a Pod is", refused, patch(alice, "/api/v1/namespaces/a/pods/there/status", map[string]any{"status": map[string]any{"podIP": "10.99.0.1"}})},
		{"choose a Pod's node", refused, func(ctx context.Context) error {
			return alice.CoreV1().Pods("a").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node1"}}, metav1.CreateOptions{})
		}},
		{"be another", refused, raw(p.as("alice", rest.ImpersonationConfig{UserName: "bob"}), http.MethodGet, "/api/v1/namespaces/b/pods")},
		{"be an administrator", refused, raw(p.as("alice", rest.ImpersonationConfig{UserName: "x", Groups: []string{"system:masters"}}), http.MethodGet, "/api/v1/nodes")},
		{"be a ServiceAccount", refused, raw(p.as("alice", rest.ImpersonationConfig{UserName: "system:serviceaccount:a:default"}), http.MethodGet, "/api/v1/namespaces/a/pods")},
		{"ask for a certificate", refused, askForCertificate(alice)},
		{"approve a certificate", refused, patch(alice, "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", labelled())},
		{"review a token", refused, reviewToken(alice)},
		{"ask about another's rights", refused, askForOthers(alice)},
		{"bind cluster-admin", refused, bind(alice, "a", "cluster-admin")},
		{"bind the operator's role", refused, bind(alice, "a", users.RoleOperator)},
		{"bind admin, which may impersonate", refused, bind(alice, "a", "admin")},
		{"bind everywhere", refused, bindEverywhere(alice, users.RoleTenant)},
		{"make a Role of what one has not", refused, role(alice, "a", "", "resourcequotas", "delete")},
		{"make a Role to impersonate", refused, role(alice, "a", "", "serviceaccounts", "impersonate")},
		{"make a Role to bind", refused, role(alice, "a", rbacv1.GroupName, "roles", "bind")},
		{"make a Role in another's namespace", refused, role(alice, "b", "", "pods", "get")},
		{"add to the tenants' role", refused, patch(alice, "/apis/rbac.authorization.k8s.io/v1/clusterroles/nodeless:tenant", labelled())},
	}
}

// operatorAttempts are those of olga.
func (p *people) operatorAttempts() []attempt {
	olga := p.clients["olga"]
	get := func(path string) func(context.Context) error { return raw(olga, http.MethodGet, path) }
	return append([]attempt{
		{"list everybody's Pods", works, get("/api/v1/pods")},
		{"read a ConfigMap", works, get("/api/v1/namespaces/kube-system/configmaps")},
		{"read a log", works, get("/api/v1/namespaces/b/pods/there/log")},
		{"list nodes", works, get("/api/v1/nodes")},
		{"see figures of nodes", reaches, get("/apis/metrics.k8s.io/v1beta1/nodes")},
		{"cordon a node", works, patch(olga, "/api/v1/nodes/node1", map[string]any{"spec": map[string]any{"unschedulable": true}})},
		{"read the apiserver's metrics", works, get("/metrics")},
		{"see what is not ready", works, get("/readyz/etcd")},
		{"see whether admission is", works, get("/readyz/serverless-admission")},
		{"make a namespace", works, func(ctx context.Context) error {
			_, err := olga.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
			return err
		}},
		{"set a quota", works, func(ctx context.Context) error {
			hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("100")}
			_, err := olga.CoreV1().ResourceQuotas("b").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
			return err
		}},
		{"scale a tenant's Deployment", works, patch(olga, "/apis/apps/v1/namespaces/a/deployments/web/scale", map[string]any{"spec": map[string]any{"replicas": 0}})},
		{"evict a tenant's Pod", works, func(ctx context.Context) error {
			return olga.CoreV1().Pods("a2").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "there"}})
		}},
		{"change the annotations for every Pod", works, patch(olga, "/api/v1/namespaces/kube-system/configmaps/eks-config", labelled())},
		{"delete a tenant's Pod", works, raw(olga, http.MethodDelete, "/api/v1/namespaces/a/pods/there")},
		{"make a Role of what one has", works, role(olga, "b", "", "pods", "get")},
	}, p.operatorLimits()...)
}

// operatorLimits are the ways to become somebody else, or into a tenant's Pod or a host.
func (p *people) operatorLimits() []attempt {
	olga := p.clients["olga"]
	get := func(path string) func(context.Context) error { return raw(olga, http.MethodGet, path) }
	return []attempt{
		{"read a Secret", refused, get("/api/v1/namespaces/b/secrets/there")},
		{"list Secrets", refused, get("/api/v1/secrets")},
		{"exec into a Pod", refused, raw(olga, http.MethodPost, "/api/v1/namespaces/b/pods/there/exec?command=id")},
		{"debug a Pod", refused, patch(olga, "/api/v1/namespaces/b/pods/there/ephemeralcontainers", labelled())},
		{"reach a Pod through the apiserver", refused, get("/api/v1/namespaces/b/pods/there/proxy/")},
		{"reach a kubelet", refused, get("/api/v1/nodes/node1/proxy/pods")},
		{"make a Pod", refused, createPod(olga, "kube-system", nil)},
		{"change a Pod", refused, patch(olga, "/api/v1/namespaces/b/pods/there", labelled())},
		{"change a Deployment", refused, patch(olga, "/apis/apps/v1/namespaces/a/deployments/web", labelled())},
		{"have a token of a controller", refused, token(olga, "kube-system")},
		{"be another", refused, raw(p.as("olga", rest.ImpersonationConfig{UserName: "bob"}), http.MethodGet, "/api/v1/namespaces/b/pods")},
		{"ask for a certificate", refused, askForCertificate(olga)},
		{"approve a certificate", refused, patch(olga, "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", labelled())},
		{"change a ConfigMap of the cluster", refused, patch(olga, "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", labelled())},
		{"make a webhook", refused, func(ctx context.Context) error {
			_, err := olga.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "try"}}, metav1.CreateOptions{})
			return err
		}},
		{"make a volume of a host's folder", refused, func(ctx context.Context) error {
			_, err := olga.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "try"}}, metav1.CreateOptions{})
			return err
		}},
		{"review a token", refused, reviewToken(olga)},
		{"bind the tenants' role", refused, bind(olga, "b", users.RoleTenant)},
		{"bind cluster-admin", refused, bindEverywhere(olga, "cluster-admin")},
		{"make a Role to read Secrets", refused, role(olga, "b", "", "secrets", "get")},
		{"add Secrets to the operators' role", refused, func(ctx context.Context) error {
			_, err := olga.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
				ObjectMeta: metav1.ObjectMeta{Name: "try", Labels: map[string]string{"nodeless.dev/aggregate-to-operator": "true"}},
				Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}},
			}, metav1.CreateOptions{})
			return err
		}},
		{"have the operators' role take in all others", refused, patch(olga, "/apis/rbac.authorization.k8s.io/v1/clusterroles/nodeless:operator", map[string]any{"aggregationRule": map[string]any{"clusterRoleSelectors": []any{map[string]any{}}}})},
		{"make a user", refused, func(ctx context.Context) error {
			_, err := users.New(olga).Create(ctx, users.Request{Name: "mallory", Operator: true, Life: time.Hour})
			return err
		}},
	}
}
