// Package users makes, lists and ends the people of a cluster: a client certificate for each, and the bindings of the roles
// nodeless:tenant and nodeless:operator (manifests/roles) that give its name rights. pkg/cli calls it for `nodeless user`.
// It needs an administrator's client, since approving a certificate is being anybody.
//
// A certificate cannot be taken back, but rights can. So the name in it has a random part, which makes it another name each time a user
// is made: what an old certificate proves, nobody has a right by.
package users

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/hint"
)

const (
	// Label names the user on everything that was made for one: bindings, and namespaces that were not there before.
	Label = api.Own + "user"
	// Prefix begins the names that certificates of users carry; the user's name and a random part follow, after colons.
	Prefix = "nodeless:user:"

	// Roles of manifests/roles.
	RoleTenant        = "nodeless:tenant"
	RoleTenantCluster = "nodeless:tenant-cluster"
	RoleOperator      = "nodeless:operator"
	// RoleAdmin is Kubernetes' own role of those who may do everything.
	RoleAdmin = "cluster-admin"

	namespacesAnnotation = api.Own + "namespaces" // comma-separated, on the ClusterRoleBinding
	expiresAnnotation    = api.Own + "expires"    // RFC 3339, on the ClusterRoleBinding
)

const (
	maxName = 40                   // bytes; with prefix and random part no more than the 64 that a common name may have
	minLife = 10 * time.Minute     // what the API takes
	maxLife = 365 * 24 * time.Hour // what the cluster signs for
)

// ErrExists, ErrUnknown and ErrForeign are the kinds of fault that a caller may want to know apart.
var (
	ErrExists  = errors.New("the user exists already")
	ErrUnknown = errors.New("there is no such user")
	ErrForeign = errors.New("the namespace exists already")
)

// User is one of the people of a cluster. The ClusterRoleBinding of its name is the record of it.
type User struct {
	Name       string
	Username   string   // the name in the certificate
	Admin      bool     // has cluster-admin, the right to everything
	Operator   bool     // has nodeless:operator in the whole cluster
	Namespaces []string // has nodeless:tenant in these
	Created    time.Time
	Expires    time.Time // of the certificate; zero when it is not known
}

// Request asks for a user.
type Request struct {
	Name       string        // a DNS label of up to 40 characters
	Namespaces []string      // those that do not exist are made
	Join       bool          // namespaces that exist may be used too, whosever they are
	Bounds     *Bounds       // of namespaces that have none; DefaultBounds when nil
	Operator   bool          // with or without namespaces
	Admin      bool          // alone: there is nothing more to give
	Life       time.Duration // of the certificate, up to a year
}

// Validate reports everything that is wrong at once.
func (r Request) Validate() error {
	errs := []error{validName(r.Name)}
	if r.Admin && (r.Operator || len(r.Namespaces) > 0) {
		errs = append(errs, &hint.Error{Op: "make user", On: r.Name, Err: errors.New("an administrator has every right already"), Do: "give --admin without --operator and --namespaces"})
	}
	if len(r.Namespaces) == 0 && !r.Operator && !r.Admin {
		errs = append(errs, &hint.Error{Op: "make user", On: r.Name, Err: errors.New("no namespaces are named"), Do: "give the namespaces of the user with --namespaces a,b, or make an operator with --operator"})
	}
	seen := make(map[string]bool)
	for _, ns := range r.Namespaces {
		if seen[ns] {
			errs = append(errs, &hint.Error{Op: "use namespace", On: ns, Err: errors.New("it is named twice"), Do: "name it once"})
		}
		seen[ns] = true
		errs = append(errs, validNamespace(ns))
	}
	if r.Life < minLife || r.Life > maxLife {
		errs = append(errs, &hint.Error{Op: "make user", On: r.Name, Err: fmt.Errorf("a certificate cannot be valid for %s", r.Life), Do: "choose --days from 1 to 365"})
	}
	return errors.Join(errs...)
}

func validName(name string) error {
	faults := validation.IsDNS1123Label(name)
	if len(name) > maxName {
		faults = append(faults, fmt.Sprintf("must be no more than %d characters", maxName))
	}
	if len(faults) == 0 {
		return nil
	}
	return &hint.Error{Op: "use name", On: fmt.Sprintf("%q", name), Err: errors.New(strings.Join(faults, "; ")), Do: "choose lower case letters, digits and -, such as alice"}
}

// validNamespace refuses those of the cluster. default is one: it has the Service by which Pods find the apiserver, and who may write there
// can point it elsewhere.
func validNamespace(ns string) error {
	if faults := validation.IsDNS1123Label(ns); len(faults) > 0 {
		return &hint.Error{Op: "use namespace", On: fmt.Sprintf("%q", ns), Err: errors.New(strings.Join(faults, "; ")), Do: "choose lower case letters, digits and -, such as shop"}
	}
	if ns == metav1.NamespaceDefault || strings.HasPrefix(ns, "kube-") {
		return &hint.Error{Op: "use namespace", On: ns, Err: errors.New("it belongs to the cluster"), Do: "choose a namespace of the user's own; one that does not exist is made"}
	}
	return nil
}

// Keeper makes, lists and ends users.
type Keeper struct{ client kubernetes.Interface }

// New gives a keeper that acts with the rights of client.
func New(client kubernetes.Interface) *Keeper { return &Keeper{client: client} }

// List gives all users by name.
func (k *Keeper) List(ctx context.Context) ([]User, error) {
	records, err := k.client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{LabelSelector: Label})
	if err != nil {
		return nil, fault("list users", "", err)
	}
	var out []User
	for i := range records.Items {
		if u, ok := fromRecord(&records.Items[i]); ok {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Server finds an address of the apiserver that others than this host can use: the one that the apiserver itself tells Pods.
func (k *Keeper) Server(ctx context.Context) (string, error) {
	parts, err := k.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return "", fault("find the apiserver's address", "", err)
	}
	for _, s := range parts.Items {
		for _, e := range s.Endpoints {
			if len(e.Addresses) > 0 && len(s.Ports) > 0 && s.Ports[0].Port != nil {
				return "https://" + net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*s.Ports[0].Port))), nil
			}
		}
	}
	return "", &hint.Error{Op: "find the apiserver's address", Err: errors.New("the Service default/kubernetes has no endpoints"), Do: "give it with --server https://ADDRESS:6443"}
}

func recordName(name string) string { return Prefix + name }

// newUsername is a name that nobody has had.
func newUsername(name string) string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return Prefix + name + ":" + hex.EncodeToString(random[:])
}

// belongs tells whether a name in a certificate is, or was once, that of the user.
func belongs(username, name string) bool { return strings.HasPrefix(username, Prefix+name+":") }

func fromRecord(record *rbacv1.ClusterRoleBinding) (User, bool) {
	u := User{Name: record.Labels[Label], Admin: record.RoleRef.Name == RoleAdmin, Operator: record.RoleRef.Name == RoleOperator, Created: record.CreationTimestamp.Time}
	if record.Name != recordName(u.Name) {
		return User{}, false
	}
	for _, s := range record.Subjects {
		if s.Kind == rbacv1.UserKind && belongs(s.Name, u.Name) {
			u.Username = s.Name
		}
	}
	if list := record.Annotations[namespacesAnnotation]; list != "" {
		u.Namespaces = strings.Split(list, ",")
	}
	u.Expires, _ = time.Parse(time.RFC3339, record.Annotations[expiresAnnotation])
	return u, true
}

// toRecord is the opposite of fromRecord.
func toRecord(u User) *rbacv1.ClusterRoleBinding {
	role := RoleTenantCluster
	switch {
	case u.Admin:
		role = RoleAdmin
	case u.Operator:
		role = RoleOperator
	}
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{
			Name:   recordName(u.Name),
			Labels: map[string]string{Label: u.Name},
			Annotations: map[string]string{
				namespacesAnnotation: strings.Join(u.Namespaces, ","),
				expiresAnnotation:    u.Expires.UTC().Format(time.RFC3339),
			},
		},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: subjects(u.Username),
	}
}

func subjects(username string) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: username}}
}

// fault says what to do about the two things that happen to anybody: no rights, and no cluster.
func fault(op, on string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return &hint.Error{Op: op, On: on, Err: err, Do: "use an administrator's kubeconfig, such as the one on the server: run it there as root, or name the file with --kubeconfig"}
	case utilnet.IsConnectionRefused(err):
		return &hint.Error{Op: op, On: on, Err: err, Do: "start the cluster with `nodeless server`, or name the kubeconfig of another one with --kubeconfig"}
	}
	if on != "" {
		op += " " + on
	}
	return fmt.Errorf("%s: %w", op, err)
}
