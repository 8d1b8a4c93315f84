package users

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
)

// undoTimeout bounds the undoing of a user that could not be made whole.
const undoTimeout = 20 * time.Second

// Grant is a new user with what proves it. Nothing else has the key.
type Grant struct {
	User
	Cert, Key []byte   // PEM
	Made      []string // namespaces that were not there before
	Bounded   []string // namespaces that had no quota or limits before
}

// Create makes a user: a certificate first, which gives no right by itself, then the record, then what the user may do in each of
// its namespaces. When one of these fails those before it are undone. The error is ErrExists when there is such a user.
func (k *Keeper) Create(ctx context.Context, r Request) (g Grant, err error) {
	if err := r.Validate(); err != nil {
		return Grant{}, err
	}
	if err := k.refuseTaken(ctx, r); err != nil {
		return Grant{}, err
	}
	if err := k.refuseForeign(ctx, r); err != nil {
		return Grant{}, err
	}
	g.User = User{Name: r.Name, Username: newUsername(r.Name), Admin: r.Admin, Operator: r.Operator, Namespaces: slices.Clone(r.Namespaces)}
	signed, err := k.sign(ctx, g.Username, r.Life)
	if err != nil {
		return Grant{}, err
	}
	g.Cert, g.Key, g.Expires = signed.cert, signed.key, signed.expires
	record, err := k.client.RbacV1().ClusterRoleBindings().Create(ctx, toRecord(g.User), metav1.CreateOptions{})
	if err != nil {
		if apierrors.IsAlreadyExists(err) {
			return Grant{}, taken(r.Name)
		}
		return Grant{}, fault("record user", r.Name, err)
	}
	g.Created = record.CreationTimestamp.Time
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Undo(ctx, g))
			g = Grant{}
		}
	}()
	bounds := DefaultBounds()
	if r.Bounds != nil {
		bounds = *r.Bounds
	}
	for _, ns := range r.Namespaces {
		made, err := k.ensureNamespace(ctx, ns, r)
		if err != nil {
			return g, err
		}
		if made {
			g.Made = append(g.Made, ns)
		}
		made, err = k.bound(ctx, ns, r.Name, bounds) // before anybody may write there
		if made {
			g.Bounded = append(g.Bounded, ns)
		}
		if err != nil {
			return g, err
		}
		if _, err := k.client.RbacV1().RoleBindings(ns).Create(ctx, binding(g.User, ns), metav1.CreateOptions{}); err != nil {
			return g, fault("bind "+RoleTenant+" in namespace", ns, err)
		}
	}
	return g, nil
}

// refuseTaken looks before anything is made.
func (k *Keeper) refuseTaken(ctx context.Context, r Request) error {
	_, err := k.client.RbacV1().ClusterRoleBindings().Get(ctx, recordName(r.Name), metav1.GetOptions{})
	if err == nil {
		return taken(r.Name)
	}
	return fault("look for user", r.Name, kube.IgnoreNotFound(err))
}

// refuseForeign looks at all namespaces before anything is made.
func (k *Keeper) refuseForeign(ctx context.Context, r Request) error {
	var errs []error
	for _, ns := range r.Namespaces {
		have, err := k.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if err != nil {
			errs = append(errs, fault("read namespace", ns, kube.IgnoreNotFound(err)))
			continue
		}
		errs = append(errs, k.mayUse(ctx, have, r))
	}
	return errors.Join(errs...)
}

// mayUse refuses a namespace that is there already, and with it the Secrets and Pods in it, unless it was made for a user of this name and
// nobody else has it, or the request says that it may be.
func (k *Keeper) mayUse(ctx context.Context, ns *corev1.Namespace, r Request) error {
	if ns.DeletionTimestamp != nil {
		return &hint.Error{Op: "use namespace", On: ns.Name, Err: errors.New("it is being deleted"), Do: "try again when it is gone: `nodeless kubectl get namespace " + ns.Name + "`"}
	}
	if r.Join {
		return nil
	}
	owners, err := k.owners(ctx, ns)
	if err != nil || slices.Equal(owners, []string{r.Name}) {
		return err
	}
	whose := "and is no tenant's"
	if len(owners) > 0 {
		whose = "and is that of " + strings.Join(owners, ", ")
	}
	return &hint.Error{Op: "use namespace", On: ns.Name, Err: fmt.Errorf("%w %s", ErrForeign, whose), Do: "choose another name, or give " + r.Name + " all that is in it with --join: Secrets and what runs there too"}
}

func taken(name string) error {
	return &hint.Error{Op: "make user", On: name, Err: ErrExists, Do: "choose another name, or end the user first with `nodeless user delete " + name + "`: the old kubeconfig is of no use from then on"}
}

// ensureNamespace makes the namespace unless it is there, and says whether it did.
func (k *Keeper) ensureNamespace(ctx context.Context, ns string, r Request) (made bool, err error) {
	_, err = k.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{Label: r.Name}}}, metav1.CreateOptions{})
	if err == nil {
		return true, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return false, fault("make namespace", ns, err)
	}
	have, err := k.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
	if err != nil {
		return false, fault("read namespace", ns, err)
	}
	return false, k.mayUse(ctx, have, r)
}

// binding gives the user its role in ns. Its name has the random part, so that a tenant who is there already cannot have taken it.
func binding(u User, ns string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: u.Username, Namespace: ns, Labels: map[string]string{Label: u.Name}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RoleTenant},
		Subjects:   subjects(u.Username),
	}
}

// Undo takes back what Create has made, also when ctx has ended, for a caller who cannot hand the grant over: the record last, so that
// `nodeless user delete` can finish it.
func (k *Keeper) Undo(ctx context.Context, g Grant) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, ns := range g.Namespaces {
		errs = append(errs, kube.IgnoreNotFound(k.client.RbacV1().RoleBindings(ns).Delete(ctx, g.Username, metav1.DeleteOptions{})))
	}
	for _, ns := range g.Bounded {
		errs = append(errs, k.unbound(ctx, ns))
	}
	for _, ns := range g.Made {
		errs = append(errs, kube.IgnoreNotFound(k.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	if err := k.client.RbacV1().ClusterRoleBindings().Delete(ctx, recordName(g.Name), metav1.DeleteOptions{}); kube.IgnoreNotFound(err) != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}
