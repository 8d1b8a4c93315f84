// Package kube holds what every client of the cluster's apiserver shares: kubeconfig files, clients, waiting for a
// state, and applying embedded manifests. Roles and domains call it; it starts nothing by itself.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clientcmdlatest "k8s.io/client-go/tools/clientcmd/api/latest"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

// Access is how somebody reaches the apiserver: its address and the files that prove who is who.
type Access struct {
	Server   string // https://host:port
	CAFile   string
	CertFile string
	KeyFile  string
}

// WriteKubeconfig writes a kubeconfig that names the files of a. Clients reload them when they are renewed.
func WriteKubeconfig(path string, a Access) error {
	return write(path, kubeconfig(
		&clientcmdapi.Cluster{Server: a.Server, CertificateAuthority: a.CAFile},
		&clientcmdapi.AuthInfo{ClientCertificate: a.CertFile, ClientKey: a.KeyFile}))
}

// WriteInlineKubeconfig writes a kubeconfig that carries the files of a, so that it can be taken elsewhere.
// It has to be written again when they are renewed. Missing parent folders are made.
func WriteInlineKubeconfig(path string, a Access) error {
	var content [3][]byte
	for i, file := range []string{a.CAFile, a.CertFile, a.KeyFile} {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("write kubeconfig %s: %w", path, err)
		}
		content[i] = data
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return unwritable(path, err)
	}
	err := write(path, kubeconfig(
		&clientcmdapi.Cluster{Server: a.Server, CertificateAuthorityData: content[0]},
		&clientcmdapi.AuthInfo{ClientCertificateData: content[1], ClientKeyData: content[2]}))
	if err != nil {
		return unwritable(path, err)
	}
	return nil
}

// Identity is who somebody is and where: the content of a kubeconfig that can be taken anywhere.
type Identity struct {
	Server        string // https://host:port
	CA, Cert, Key []byte // PEM
	User          string // how the file calls them
	Namespace     string // where they work when they name none; may be empty
}

// Kubeconfig is the text of the file. Its names tell the user apart from others in a file that several are merged into.
func (i Identity) Kubeconfig() ([]byte, error) {
	cfg := clientcmdapi.NewConfig()
	cluster, context := "nodeless", i.User+"@nodeless"
	cfg.Clusters[cluster] = &clientcmdapi.Cluster{Server: i.Server, CertificateAuthorityData: i.CA}
	cfg.AuthInfos[i.User] = &clientcmdapi.AuthInfo{ClientCertificateData: i.Cert, ClientKeyData: i.Key}
	cfg.Contexts[context] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: i.User, Namespace: i.Namespace}
	cfg.CurrentContext = context
	data, err := runtime.Encode(clientcmdlatest.Codec, cfg)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig of %s: %w", i.User, err)
	}
	return data, nil
}

func unwritable(path string, err error) error {
	return &hint.Error{Op: "write kubeconfig", On: path, Err: err, Do: "choose a writable place with --write-kubeconfig"}
}

func kubeconfig(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) *clientcmdapi.Config {
	const name = "nodeless"
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = cluster
	cfg.AuthInfos[name] = user
	cfg.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	cfg.CurrentContext = name
	return cfg
}

func write(path string, cfg *clientcmdapi.Config) error {
	data, err := runtime.Encode(clientcmdlatest.Codec, cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return atomicfile.Write(path, data, 0o600)
}

// RESTConfig is the client configuration of a, for protobuf where the API has it.
func (a Access) RESTConfig(userAgent string) *rest.Config {
	return &rest.Config{
		Host:            a.Server,
		TLSClientConfig: rest.TLSClientConfig{CAFile: a.CAFile, CertFile: a.CertFile, KeyFile: a.KeyFile},
		ContentConfig:   rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON},
		UserAgent:       userAgent,
		QPS:             50,
		Burst:           100,
	}
}

// Client is a typed client.
func (a Access) Client(userAgent string) (*kubernetes.Clientset, error) {
	return kubernetes.NewForConfig(a.RESTConfig(userAgent))
}

// Dynamic is a client for objects of any kind.
func (a Access) Dynamic(userAgent string) (*dynamic.DynamicClient, error) {
	cfg := a.RESTConfig(userAgent)
	cfg.ContentConfig = rest.ContentConfig{}
	return dynamic.NewForConfig(cfg)
}

// FromKubeconfig gives the client configuration of a kubeconfig file.
func FromKubeconfig(path string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return cfg, nil
}

// pollInterval is the pause between two looks at something that should be there within moments.
const pollInterval = 50 * time.Millisecond

// Wait calls done until it says so, fails, or ctx ends; then the error says what was last seen.
// An error of done that is marked by Permanent ends the wait, any other is only remembered.
func Wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		var p *permanentError
		if errors.As(err, &p) {
			return fmt.Errorf("wait for %s: %w", what, p.error)
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), last))
		case <-ticker.C:
		}
	}
}

type permanentError struct{ error }

func (p *permanentError) Unwrap() error { return p.error }

// Permanent marks an error that waiting cannot mend.
func Permanent(err error) error { return &permanentError{err} }

// WaitReadyz waits until the apiserver answers /readyz with ok.
func WaitReadyz(ctx context.Context, a Access) error {
	cfg := a.RESTConfig("nodeless")
	cfg.Timeout = 5 * time.Second
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	return Wait(ctx, "the apiserver's /readyz", func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Server+"/readyz", nil)
		if err != nil {
			return false, Permanent(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, err
		}
		if err := resp.Body.Close(); err != nil {
			return false, err
		}
		if resp.StatusCode != http.StatusOK {
			return false, fmt.Errorf("status %s", resp.Status)
		}
		return true, nil
	})
}

// IgnoreNotFound drops the error that says that an object is not there.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
