// Package accounts reads the API billing.nodeless.dev and prints what it says: pkg/cli's usage, bill and reservation commands. It
// needs no more access than a tenant has.
package accounts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodeless/nodeless/pkg/api/billing/v1alpha1"
	"github.com/nodeless/nodeless/pkg/hint"
)

// timeout is how long a request may take.
const timeout = time.Minute

// Client asks one cluster.
type Client struct{ rest rest.Interface }

// Connect makes a client of the cluster that a kubeconfig names, or that KUBECONFIG and the user's own do when it is empty.
func Connect(kubeconfig string) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, &hint.Error{Op: "read kubeconfig", On: kubeconfig, Err: err, Do: "name one with --kubeconfig or KUBECONFIG"}
	}
	return NewClient(config)
}

// NewClient makes a client by a configuration, which it changes.
func NewClient(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	version := v1alpha1.GroupVersion()
	config.GroupVersion, config.APIPath, config.Timeout = &version, "/apis", timeout
	config.NegotiatedSerializer, config.ContentType = serializer.NewCodecFactory(scheme).WithoutConversion(), runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &Client{client}, nil
}

// Usages lists what fields select, of some namespaces or, when none are named, of all.
func (c *Client) Usages(ctx context.Context, namespaces []string, fields string) ([]v1alpha1.Usage, error) {
	return list(ctx, c, "usages", namespaces, fields, func(l *v1alpha1.UsageList) []v1alpha1.Usage { return l.Items })
}

// Bills lists those of a month.
func (c *Client) Bills(ctx context.Context, namespaces []string, month string) ([]v1alpha1.Bill, error) {
	return list(ctx, c, "bills", namespaces, "metadata.name="+month, func(l *v1alpha1.BillList) []v1alpha1.Bill { return l.Items })
}

// Reservations lists those that were not refunded, and with refunded those as well.
func (c *Client) Reservations(ctx context.Context, namespaces []string, refunded bool) ([]v1alpha1.Reservation, error) {
	items := func(l *v1alpha1.ReservationList) []v1alpha1.Reservation { return l.Items }
	found, err := list(ctx, c, "reservations", namespaces, "", items)
	if err != nil || !refunded {
		return found, err
	}
	more, err := list(ctx, c, "reservations", namespaces, v1alpha1.StateField+"=Refunded", items)
	return append(found, more...), err
}

// Buy makes a reservation; dry only says what would be.
func (c *Client) Buy(ctx context.Context, r *v1alpha1.Reservation, dry bool) (*v1alpha1.Reservation, error) {
	r.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Reservation"}
	var bought v1alpha1.Reservation
	request := c.rest.Post().Namespace(r.Namespace).Resource("reservations").Body(r)
	if dry {
		request = request.Param("dryRun", metav1.DryRunAll)
	}
	err := request.Do(ctx).Into(&bought)
	return &bought, explain("buy", "reservation "+r.Namespace+"/"+r.Name, err)
}

// Refund gives one back.
func (c *Client) Refund(ctx context.Context, namespace, name string) (*v1alpha1.Reservation, error) {
	var refunded v1alpha1.Reservation
	err := c.rest.Delete().Namespace(namespace).Resource("reservations").Name(name).Do(ctx).Into(&refunded)
	return &refunded, explain("refund", "reservation "+namespace+"/"+name, err)
}

// page is how many objects are asked for at once.
const page = 1000

// listed is a list of the API.
type listed interface {
	runtime.Object
	GetContinue() string
}

func list[L listed, T any](ctx context.Context, c *Client, kind string, namespaces []string, fields string, items func(L) []T) ([]T, error) {
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var all []T
	for _, ns := range namespaces {
		for next := ""; ; {
			request := c.rest.Get().Namespace(ns).Resource(kind).Param("limit", strconv.Itoa(page))
			if next != "" {
				request = request.Param("continue", next)
			}
			if fields != "" {
				request = request.Param("fieldSelector", fields)
			}
			answer, err := request.Do(ctx).Get()
			if err != nil {
				return nil, explain("list", strings.TrimSpace(kind+" "+of(ns)), err)
			}
			l, ok := answer.(L)
			if !ok {
				return nil, fmt.Errorf("list %s: the answer is a %T", kind, answer)
			}
			all = append(all, items(l)...)
			if next = l.GetContinue(); next == "" {
				break
			}
		}
	}
	return all, nil
}

func of(namespace string) string {
	if namespace == "" {
		return "of all namespaces"
	}
	return "of namespace " + namespace
}

// explain says what to do about an answer that is an error.
func explain(what, on string, err error) error {
	if err == nil {
		return nil
	}
	do := ""
	var refused net.Error
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(on, "of all namespaces"):
		do = "name the namespaces that you may see with --namespace"
	case apierrors.IsForbidden(err) && what == "list":
		do = "ask an administrator for the role view in that namespace"
	case apierrors.IsForbidden(err):
		do = "ask an administrator: it takes the ClusterRole nodeless:billing-admin"
	case apierrors.IsUnauthorized(err):
		do = "name a kubeconfig that is valid with --kubeconfig or KUBECONFIG"
	case apierrors.IsInvalid(err), apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		do = "`nodeless reservation list` shows what there is, `nodeless reservation buy --help` what can be asked for"
	case apierrors.IsNotFound(err) && what == "list":
		do = "the cluster keeps no accounts: its server is older than this program, or of another kind"
	case apierrors.IsNotFound(err) && what == "buy":
		do = "see that the namespace exists: `nodeless kubectl get namespaces`"
	case apierrors.IsNotFound(err):
		do = "`nodeless reservation list` shows what there is"
	case errors.As(err, &refused):
		do = "see that the server runs: `systemctl status nodeless`"
	}
	return &hint.Error{Op: what, On: on, Err: err, Do: do}
}

// Namespaces reads names parted by commas.
func Namespaces(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var names []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" || strings.ContainsAny(name, "/ ") {
			return nil, &hint.Error{Op: "read --namespace", Err: fmt.Errorf("%q: %q is no namespace", text, name), Do: "separate names by commas, as in --namespace shop,blog"}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}
