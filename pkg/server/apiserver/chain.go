package apiserver

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	apiapp "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/nodeless/nodeless/pkg/pki"
	"github.com/nodeless/nodeless/pkg/server/apiserver/admission"
	"github.com/nodeless/nodeless/pkg/server/apiserver/guard"
	"github.com/nodeless/nodeless/pkg/server/apiserver/watchcache"
)

// chain makes the three servers that are one apiserver, as upstream's Run does: the aggregator, Kubernetes' own APIs, and
// custom resources. The groups become part of the second (docs/adr/0019): no request to them leaves the process, and they have its
// listener, authentication, authorization and audit. The aggregator passes on what an APIService without a Service names.
func chain(opts options.CompletedOptions, cfg Config) (*aggregator.APIAggregator, error) {
	if opts.InformerName == nil {
		name, err := cache.NewInformerName("kube-apiserver")
		if err != nil {
			return nil, fmt.Errorf("name informers of kube-apiserver: %w", err)
		}
		opts.InformerName = name
	}
	config, err := apiapp.NewConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("configure kube-apiserver: %w", err)
	}
	addDefinitions(config.KubeAPIs.ControlPlane.Generic, cfg.Definitions)
	nameDefinitions(config.KubeAPIs.ControlPlane.Generic, cfg.Groups)
	if err := guarded(config, cfg); err != nil {
		return nil, err
	}
	completed, err := config.Complete()
	if err != nil {
		return nil, fmt.Errorf("complete configuration of kube-apiserver: %w", err)
	}
	servers, err := apiapp.CreateServerChain(completed)
	if err != nil {
		return nil, fmt.Errorf("make kube-apiserver: %w", err)
	}
	kubernetes, ok := servers.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return nil, fmt.Errorf("make kube-apiserver: %T comes after the aggregator", servers.GenericAPIServer.NextDelegate())
	}
	for _, group := range cfg.Groups {
		if err := kubernetes.InstallAPIGroup(group); err != nil {
			return nil, fmt.Errorf("install API %s: %w", group.PrioritizedVersions[0], err)
		}
	}
	return servers, nil
}

// guarded puts between strangers and the three servers what upstream does not have. Requests come in by the aggregator, which has one
// handler, one authentication and one log for all three.
func guarded(config *apiapp.Config, cfg Config) error {
	kubernetes, extensions, outer := config.KubeAPIs.ControlPlane, config.ApiExtensions, config.Aggregator.GenericConfig
	relisted := cfg.Relisted
	if relisted == nil {
		relisted = func() {}
	}
	kubernetes.Generic.RESTOptionsGetter = guard.Storage(watchcache.Relisting(kubernetes.Generic.RESTOptionsGetter, relisted))
	extensions.ExtraConfig.CRDRESTOptionsGetter = guard.Storage(watchcache.Relisting(extensions.ExtraConfig.CRDRESTOptionsGetter, relisted))

	client, err := clientset.NewForConfig(kubernetes.Generic.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make client of kube-apiserver for itself: %w", err)
	}
	proxied := admission.Proxied{Pods: kubernetes.VersionedInformers.Core().V1().Pods().Lister(), Client: client, Authorizer: kubernetes.Generic.Authorization.Authorizer}
	config.KubeAPIs.ControlPlane.ProxyTransport = proxied.Transport(kubernetes.ProxyTransport)

	outer.AuditBackend = guard.Audit(outer.AuditBackend)
	outer.Authentication.Authenticator = guard.Masters(outer.Authentication.Authenticator, pki.UserSupervisor, pki.SupervisorLife+pki.Skew)
	build := outer.BuildHandlerChainFunc
	outer.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		return build(guard.NewRequests(cfg.Limits.Requests, c.LongRunningFunc, c.Authorization.Authorizer, c.Serializer).Wrap(handler), c)
	}
	return nil
}

// nameDefinitions has OpenAPI say which of its definitions are the kinds of the groups: `kubectl explain` looks for that.
func nameDefinitions(config *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo) {
	schemes := []*runtime.Scheme{legacyscheme.Scheme, apiextensions.Scheme, aggregatorscheme.Scheme}
	for _, group := range groups {
		schemes = append(schemes, outside(group.Scheme))
	}
	namer := openapinamer.NewDefinitionNamer(schemes...)
	config.OpenAPIConfig.GetDefinitionName = namer.GetDefinitionName
	config.OpenAPIV3Config.GetDefinitionName = namer.GetDefinitionName
}

// outside is a scheme without the versions that only an apiserver sees: their kinds may be the same types, and definitions have one name.
func outside(scheme *runtime.Scheme) *runtime.Scheme {
	out := runtime.NewScheme()
	for kind, of := range scheme.AllKnownTypes() {
		if kind.Version == runtime.APIVersionInternal {
			continue
		}
		if object, ok := reflect.New(of).Interface().(runtime.Object); ok {
			out.AddKnownTypeWithName(kind, object)
		}
	}
	return out
}

// addDefinitions gives OpenAPI the definitions of kinds that are not Kubernetes' own: without them their group cannot be installed.
func addDefinitions(config *genericapiserver.Config, more []common.GetOpenAPIDefinitions) {
	joined := func(first common.GetOpenAPIDefinitions) common.GetOpenAPIDefinitions {
		return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
			all := maps.Clone(first(ref))
			for _, get := range more {
				maps.Copy(all, get(ref))
			}
			return all
		}
	}
	config.OpenAPIConfig.GetDefinitions = joined(config.OpenAPIConfig.GetDefinitions)
	v3 := config.OpenAPIV3Config
	v3.GetDefinitions = joined(v3.GetDefinitions)
	ready := v3.Definitions
	if ready == nil {
		return
	}
	v3.Definitions = joined(func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return ready })(func(name string) spec.Ref {
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(name))
	})
}
