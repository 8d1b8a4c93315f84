package apiserver

import (
	"fmt"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiapp "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// chain makes the three servers that are one apiserver, as upstream's Run does: the aggregator, Kubernetes' own APIs, and
// custom resources. The groups become part of the second (docs/adr/0019): no request to them leaves the process, and they have its
// listener, authentication, authorization and audit. The aggregator passes on what an APIService without a Service names.
func chain(opts options.CompletedOptions, groups []*genericapiserver.APIGroupInfo) (*aggregator.APIAggregator, error) {
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
	nameDefinitions(config.KubeAPIs.ControlPlane.Generic, groups)
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
	for _, group := range groups {
		if err := kubernetes.InstallAPIGroup(group); err != nil {
			return nil, fmt.Errorf("install API %s: %w", group.PrioritizedVersions[0], err)
		}
	}
	return servers, nil
}

// nameDefinitions has OpenAPI say which of its definitions are the kinds of the groups: `kubectl explain` looks for that.
func nameDefinitions(config *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo) {
	schemes := []*runtime.Scheme{legacyscheme.Scheme, apiextensions.Scheme, aggregatorscheme.Scheme}
	for _, group := range groups {
		schemes = append(schemes, group.Scheme)
	}
	namer := openapinamer.NewDefinitionNamer(schemes...)
	config.OpenAPIConfig.GetDefinitionName = namer.GetDefinitionName
	config.OpenAPIV3Config.GetDefinitionName = namer.GetDefinitionName
}
