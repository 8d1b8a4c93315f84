package cis

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	dropArg = "leave out the --kube-apiserver-arg that changes it"
	auditOn = "leave audit out of --disable, or give the apiserver's own arguments with --kube-apiserver-arg"
)

// is asks that an argument has one value; what upstream does when it is not given is def.
func is(component func(Facts) Flags, name, want, def string) func(Facts) verdict {
	return func(f Facts) verdict {
		got := component(f).last(name)
		if got == "" {
			got = def
		}
		if got != want {
			return warn(fmt.Sprintf("--%s=%s", name, got), "leave out the argument that changes it")
		}
		return pass(fmt.Sprintf("--%s=%s", name, got))
	}
}

// given asks that arguments have a value.
func given(component func(Facts) Flags, names ...string) func(Facts) verdict {
	return func(f Facts) verdict {
		for _, name := range names {
			if component(f).last(name) == "" {
				return warn("--"+name+" is not given", "leave out the argument that empties it")
			}
		}
		return pass("--" + strings.Join(names, ", --"))
	}
}

// atLeast asks for a number; what upstream does when it is not given is of no use.
func atLeast(name string, least int) func(Facts) verdict {
	return func(f Facts) verdict {
		if api(f).last("audit-log-path") == "" {
			return warn("there is no audit log", auditOn)
		}
		got, err := strconv.Atoi(api(f).last(name))
		if err != nil || got < least {
			return warn(fmt.Sprintf("--%s=%s, less than the %d of the benchmark", name, api(f).last(name), least), "choose more, where the disk has room")
		}
		return pass(fmt.Sprintf("--%s=%d", name, got))
	}
}

// plugin asks for an admission plugin; those that upstream turns on by itself are on unless turned off.
func plugin(name string, byDefault bool, do string) func(Facts) verdict {
	return func(f Facts) verdict {
		off := slices.Contains(api(f).list("disable-admission-plugins"), name)
		if on := byDefault || slices.Contains(api(f).list("enable-admission-plugins"), name); !on || off {
			return warn("the plugin is off", do)
		}
		return pass("the plugin is on")
	}
}

func api(f Facts) Flags               { return f.APIServer }
func controllerManager(f Facts) Flags { return f.ControllerManager }
func scheduler(f Facts) Flags         { return f.Scheduler }

func apiserver() []check {
	return append([]check{
		{"1.2.1", "strangers get no answer from the apiserver", anonymous},
		{"1.2.2", "no passwords of users in a file", func(f Facts) verdict {
			if api(f).last("token-auth-file") != "" {
				return warn("--token-auth-file is given", dropArg)
			}
			return pass("--token-auth-file is not given")
		}},
		{"1.2.3", "Services cannot claim addresses of others", plugin("DenyServiceExternalIPs", false, dropArg)},
		{"1.2.4", "the apiserver proves itself to the kubelet", given(api, "kubelet-client-certificate", "kubelet-client-key")},
		{"1.2.5", "the apiserver proves the kubelet", given(api, "kubelet-certificate-authority")},
		{"1.2.6", "not everything is allowed", func(f Facts) verdict { return modes(f, "AlwaysAllow", false) }},
		{"1.2.7", "nodes have only their own rights", func(f Facts) verdict { return modes(f, "Node", true) }},
		{"1.2.8", "rights come from roles", func(f Facts) verdict { return modes(f, "RBAC", true) }},
		{"1.2.9", "events cannot flood the database", plugin("EventRateLimit", false, "turn EventRateLimit on with --kube-apiserver-arg")},
		{"1.2.10", "the plugin that admits everything is off", func(f Facts) verdict {
			if slices.Contains(api(f).list("enable-admission-plugins"), "AlwaysAdmit") {
				return warn("AlwaysAdmit is on", dropArg)
			}
			return pass("AlwaysAdmit is not on")
		}},
		{"1.2.11", "an image that is here is no way around its password", imagesVerified},
		{"1.2.12", "Pods get accounts", plugin("ServiceAccount", true, dropArg)},
		{"1.2.13", "nothing is made in a namespace that ends", plugin("NamespaceLifecycle", true, dropArg)},
		{"1.2.14", "nodes change only what is theirs", plugin("NodeRestriction", false, dropArg)},
		{"1.2.15", "the apiserver's profiles are not served", is(api, "profiling", "false", "true")},
		{"1.2.16", "requests are written down", audited},
		{"1.2.17", "the audit log is kept for 30 days", atLeast("audit-log-maxage", 30)},
		{"1.2.18", "ten old files of the audit log are kept", atLeast("audit-log-maxbackup", 10)},
		{"1.2.19", "a file of the audit log has 100 MB", atLeast("audit-log-maxsize", 100)},
	}, apiserverKeys()...)
}

func apiserverKeys() []check {
	return []check{
		{"1.2.20", "a request cannot last for ever", func(f Facts) verdict {
			got := api(f).last("request-timeout")
			if d, err := time.ParseDuration(got); got != "" && (err != nil || d <= 0 || d > 5*time.Minute) {
				return warn("--request-timeout="+got, dropArg)
			}
			return pass("a minute, or what --request-timeout says")
		}},
		{"1.2.21", "tokens of accounts that are gone are worth nothing", is(api, "service-account-lookup", "true", "true")},
		{"1.2.22", "tokens are proved with a key of their own", given(api, "service-account-key-file")},
		{"1.2.23", "the apiserver proves itself to the datastore", store("etcd-certfile", "etcd-keyfile")},
		{"1.2.24", "the apiserver serves by TLS alone", given(api, "tls-cert-file", "tls-private-key-file")},
		{"1.2.25", "clients prove themselves by certificates of one authority", given(api, "client-ca-file")},
		{"1.2.26", "the apiserver proves the datastore", store("etcd-cafile")},
		{"1.2.27", "Secrets are encrypted in the datastore", given(api, "encryption-provider-config")},
		{"1.2.28", "Secrets are encrypted with a cipher that proves them", sealed},
		{"1.2.29", "TLS has strong ciphers only", func(f Facts) verdict {
			return ciphers(api(f).list("tls-cipher-suites"), api(f).last("tls-min-version"))
		}},
		{"1.2.30", "tokens of accounts are not made longer than was asked", is(api, "service-account-extend-token-expiration", "false", "true")},
	}
}

// health tells whether a path says no more than whether the apiserver lives.
func health(path string) bool { return path == "/livez" || path == "/readyz" || path == "/healthz" }

// anonymous: either no one, or a file that names the paths that strangers may see.
func anonymous(f Facts) verdict {
	file := api(f).last("authentication-config")
	if file == "" {
		return is(api, "anonymous-auth", "false", "true")(f)
	}
	var config struct {
		Anonymous *struct {
			Enabled    bool `json:"enabled"`
			Conditions []struct {
				Path string `json:"path"`
			} `json:"conditions"`
		} `json:"anonymous"`
	}
	if v, ok := f.written(file, &config); !ok {
		return v
	}
	switch a := config.Anonymous; {
	case a == nil:
		return warn(file+" does not say; then strangers are let in where roles allow it", "add `anonymous: {enabled: false}`")
	case !a.Enabled:
		return pass("none")
	case len(a.Conditions) == 0:
		return warn(file+" lets strangers in", "give `anonymous` conditions")
	default:
		for _, c := range a.Conditions {
			if !health(c.Path) {
				return warn(file+" lets strangers see "+c.Path, "take it out")
			}
		}
		return pass("only /livez, /readyz and /healthz answer them")
	}
}

// read parses a file of the host.
func (f Facts) read(path string, into any) error {
	text, err := fs.ReadFile(f.Root, strings.TrimPrefix(path, "/"))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// written parses a file that the server writes; ok is false when the verdict is that it is not there or cannot be read.
func (f Facts) written(path string, into any) (v verdict, ok bool) {
	err := f.read(path, into)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notApplicable(notYet), false
	case err != nil:
		return warn(err.Error(), "run it as root"), false
	}
	return verdict{}, true
}

func modes(f Facts, name string, wanted bool) verdict {
	have := api(f).list("authorization-mode")
	detail := "--authorization-mode=" + strings.Join(have, ",")
	if slices.Contains(have, name) != wanted || len(have) == 0 {
		return warn(detail, dropArg)
	}
	return pass(detail)
}

// imagesVerified: the benchmark asks for a plugin that pulls each image anew. The kubelet has learnt to prove the right to an image
// instead.
func imagesVerified(f Facts) verdict {
	if slices.Contains(api(f).list("enable-admission-plugins"), "AlwaysPullImages") {
		return pass("the plugin is on")
	}
	if policy := f.Kubelet.ImageCredentials; policy == "" || policy == "NeverVerify" {
		return warn("a Pod gets any image that is here", "set imagePullCredentialsVerificationPolicy back to what it is by default")
	}
	return pass("not by AlwaysPullImages: the kubelet verifies credentials before a Pod gets an image that another one pulled, policy " + f.Kubelet.ImageCredentials)
}

func audited(f Facts) verdict {
	if path := api(f).last("audit-log-path"); path != "" {
		return pass("--audit-log-path=" + path)
	}
	return warn("there is no audit log", auditOn)
}

// store is about a datastore that is reached over a network.
func store(names ...string) func(Facts) verdict {
	return func(f Facts) verdict {
		if f.OwnDatastore {
			return notApplicable("the datastore is in the same process, behind a socket that root alone can open")
		}
		return given(api, names...)(f)
	}
}

// sealed looks at every provider in the file of encryption: the first writes, and any is read.
func sealed(f Facts) verdict {
	var config struct {
		Resources []struct {
			Resources []string         `json:"resources"`
			Providers []map[string]any `json:"providers"`
		} `json:"resources"`
	}
	if v, ok := f.written(f.Files.Encryption, &config); !ok {
		return v
	}
	for _, r := range config.Resources {
		for _, p := range r.Providers {
			for name := range p {
				if name != "secretbox" && name != "kms" {
					return warn("provider "+name, "use secretbox or kms")
				}
			}
		}
	}
	if len(config.Resources) == 0 {
		return warn("nothing is encrypted", "restore the file from a backup")
	}
	return pass("secretbox, and nothing is taken in the clear")
}

// ciphers: Go's own choice has no weak one.
func ciphers(chosen []string, least string) verdict {
	if least == "VersionTLS10" || least == "VersionTLS11" {
		return warn("least version "+least, dropArg)
	}
	for _, c := range chosen {
		if strings.Contains(c, "_CBC_") || strings.Contains(c, "RC4") || strings.Contains(c, "3DES") || strings.HasPrefix(c, "TLS_RSA_") {
			return warn(c+" is among them", "leave it out")
		}
	}
	if len(chosen) == 0 {
		return pass("TLS 1.2 or later with the ciphers that Go holds safe")
	}
	return pass(strings.Join(chosen, ", "))
}

func controllers() []check {
	noPort := func(component func(Facts) Flags) func(Facts) verdict {
		return func(f Facts) verdict {
			if component(f).last("secure-port") == "0" {
				return pass("it opens no port")
			}
			return is(component, "bind-address", "127.0.0.1", "0.0.0.0")(f)
		}
	}
	return []check{
		{"1.3.1", "Pods that have ended do not pile up", given(controllerManager, "terminated-pod-gc-threshold")},
		{"1.3.2", "the controllers' profiles are not served", is(controllerManager, "profiling", "false", "true")},
		{"1.3.3", "each controller has an account of its own", is(controllerManager, "use-service-account-credentials", "true", "false")},
		{"1.3.4", "the controllers have the key that signs tokens", given(controllerManager, "service-account-private-key-file")},
		{"1.3.5", "Pods are told the cluster's authority", given(controllerManager, "root-ca-file")},
		{"1.3.6", "the kubelet's serving certificate is renewed", renewed()},
		{"1.3.7", "the controllers cannot be reached from outside", noPort(controllerManager)},
		{"1.4.1", "the scheduler's profiles are not served", func(f Facts) verdict {
			if scheduler(f).last("secure-port") == "0" {
				return pass("it opens no port")
			}
			return warn("it opens a port", "leave out the argument that changes it")
		}},
		{"1.4.2", "the scheduler cannot be reached from outside", noPort(scheduler)},
	}
}

func datastore() []check {
	look := func(f Facts) verdict {
		if f.OwnDatastore {
			return notApplicable("there is no etcd: the datastore is SQLite in the server's process, behind a socket that root alone can open")
		}
		return warn("the datastore is not this server's", "run the benchmark where it runs")
	}
	return []check{{"2.1-2.7", "etcd and its peers prove each other by TLS", look}}
}

func logging() []check {
	return []check{
		{"3.1.1", "users come by something better than certificates", func(Facts) verdict {
			return warn("`nodeless user create` makes certificates, which end by themselves and whose rights end with `nodeless user delete`",
				"connect an identity provider with --kube-apiserver-arg=authentication-config=FILE, where people come and go")
		}},
		never("3.1.2", "users do not come by accounts of Pods", "no user of nodeless is one; whether somebody uses such a token by hand cannot be seen"),
		{"3.1.3", "users do not come by bootstrap tokens", func(f Facts) verdict {
			return is(api, "enable-bootstrap-token-auth", "false", "false")(f)
		}},
		{"3.2.1-3.2.2", "a policy says which requests are written down", func(f Facts) verdict {
			if file := api(f).last("audit-policy-file"); file != "" {
				return pass("--audit-policy-file=" + file)
			}
			return warn("there is no policy", auditOn)
		}},
	}
}
