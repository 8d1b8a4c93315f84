package apiserver

import "github.com/nodeless/nodeless/pkg/atomicfile"

// authenticationConfig lets those without a certificate or token see whether the apiserver lives, and nothing else.
const authenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// admissionConfig bounds how fast events come, which no quota counts. A namespace may have 500 at once, as from a rollout of a hundred
// Pods, and 5 a second from then on: with the hour that they are kept, and their size (package bounds), no more than 300 MiB. The limit of
// a user is for those who write into many namespaces; the kubelet, which speaks for all tenants, has to stay far below it.
const admissionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits:
    - {type: Namespace, qps: 5, burst: 500, cacheSize: 4096}
    - {type: User, qps: 200, burst: 5000, cacheSize: 4096}
`

// auditPolicy says who did what to which object, and never what was in it: there is no body of any request or answer in the log, so no
// Secret and no token. Left out is what nobody did on purpose: health checks and discovery, what the cluster's own components read and
// report, events and leases of theirs.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: [/livez*, /readyz*, /healthz*, /version, /api, /api/*, /apis, /apis/*, /openapi/*]
- level: None
  verbs: [get, list, watch]
  userGroups: [system:nodes, system:serviceaccounts:kube-system]
- level: None
  verbs: [get, list, watch]
  users: &ours
  - system:apiserver
  - system:kube-controller-manager
  - system:kube-scheduler
  - system:kube-proxy
  - nodeless:supervisor
  - nodeless:apiserver-kubelet-client
  - nodeless:dns
  - nodeless:metrics
  - nodeless:eklet
  - nodeless:spot
  - nodeless:cronscaler
- level: None
  userGroups: [system:nodes, system:serviceaccounts:kube-system]
  resources: &reports
  - {group: "", resources: [events, pods/status, nodes/status, resourcequotas/status, services/status, persistentvolumeclaims/status, endpoints]}
  - {group: events.k8s.io, resources: [events]}
  - {group: coordination.k8s.io, resources: [leases]}
  - {group: discovery.k8s.io, resources: [endpointslices]}
  - {group: apps, resources: ["*/status"]}
  - {group: batch, resources: ["*/status"]}
  - {group: autoscaling, resources: ["*/status"]}
  - {group: policy, resources: ["*/status"]}
  - {group: autoscaling.cloud.tencent.com, resources: ["*/status"]}
- level: None
  users: *ours
  resources: *reports
- level: Metadata
`

// writeFiles writes the settings that the apiserver takes from files only.
func (c Config) writeFiles() error {
	files := map[string]string{c.AuthenticationFile: authenticationConfig, c.AdmissionFile: admissionConfig}
	if c.AuditLog != "" {
		files[c.AuditPolicyFile] = auditPolicy
	}
	for name, text := range files {
		if err := atomicfile.Write(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
