package users

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/kube"
)

// maxPasses is how often Delete looks for bindings of the user. Two are enough unless the user makes more of them meanwhile.
const maxPasses = 10

// Removed tells what Delete has done and what it leaves.
type Removed struct {
	User
	// Left are RoleBindings in the user's namespaces, as namespace/name, that give rights to somebody else. If the user made them, for a
	// ServiceAccount that it has a token of, they are a way back.
	Left []string
}

// Delete takes every right from a user. Its own bindings go. It is taken out of those that others made, or they go with it. The
// namespaces and what runs in them stay. It is safe to repeat. The error is ErrUnknown when there is no such user.
func (k *Keeper) Delete(ctx context.Context, name string) (Removed, error) {
	if err := validName(name); err != nil {
		return Removed{}, err
	}
	record, err := k.client.RbacV1().ClusterRoleBindings().Get(ctx, recordName(name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Removed{}, &hint.Error{Op: "delete user", On: name, Err: ErrUnknown, Do: "`nodeless user list` shows them"}
	}
	if err != nil {
		return Removed{}, fault("read user", name, err)
	}
	user, ok := fromRecord(record)
	if !ok {
		return Removed{}, &hint.Error{Op: "delete user", On: name, Err: fmt.Errorf("the ClusterRoleBinding %s is not one of ours", record.Name), Do: "look at it, and delete it with `nodeless kubectl delete clusterrolebinding " + record.Name + "`"}
	}
	gone := Removed{User: user}
	record.Subjects = nil // the record stays until all is done, so that this can be repeated
	if record, err = k.client.RbacV1().ClusterRoleBindings().Update(ctx, record, metav1.UpdateOptions{}); err != nil {
		return gone, fault("take rights from user", name, err)
	}
	if gone.Left, err = k.unbind(ctx, user); err != nil {
		return gone, err
	}
	err = k.client.RbacV1().ClusterRoleBindings().Delete(ctx, record.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(record.UID))})
	return gone, fault("delete record of user", name, kube.IgnoreNotFound(err))
}

// unbind takes the user out of every binding of the cluster, whoever made it: a tenant may bind roles in its namespace, to itself too. It
// looks again until there is none, since the user could make one more as long as it had the rights to.
func (k *Keeper) unbind(ctx context.Context, u User) (left []string, err error) {
	for range maxPasses {
		inCluster, err := k.unbindCluster(ctx, u)
		if err != nil {
			return nil, err
		}
		inNamespaces, left, err := k.unbindNamespaces(ctx, u)
		if err != nil || !inCluster && !inNamespaces {
			return left, err
		}
	}
	return nil, &hint.Error{Op: "take rights from user", On: u.Name, Err: errors.New("bindings of the user come back"), Do: "find out who makes them, and repeat `nodeless user delete " + u.Name + "`"}
}

func (k *Keeper) unbindNamespaces(ctx context.Context, u User) (found bool, left []string, err error) {
	all, err := k.client.RbacV1().RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, nil, fault("list bindings of user", u.Name, err)
	}
	var errs []error
	for i := range all.Items {
		b := &all.Items[i]
		rest, had := without(b.Subjects, u.Name)
		if slices.Contains(u.Namespaces, b.Namespace) && slices.ContainsFunc(rest, foreign) {
			left = append(left, b.Namespace+"/"+b.Name)
		}
		if !had {
			continue
		}
		found = true
		bindings := k.client.RbacV1().RoleBindings(b.Namespace)
		if len(rest) == 0 {
			err = bindings.Delete(ctx, b.Name, metav1.DeleteOptions{})
		} else {
			b.Subjects = rest
			_, err = bindings.Update(ctx, b, metav1.UpdateOptions{})
		}
		errs = append(errs, fault("take user out of RoleBinding", b.Namespace+"/"+b.Name, ignoreChanged(err)))
	}
	return found, left, errors.Join(errs...)
}

func (k *Keeper) unbindCluster(ctx context.Context, u User) (found bool, err error) {
	all, err := k.client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fault("list bindings of user", u.Name, err)
	}
	var errs []error
	for i := range all.Items {
		b := &all.Items[i]
		rest, had := without(b.Subjects, u.Name)
		if !had {
			continue
		}
		found = true
		bindings := k.client.RbacV1().ClusterRoleBindings()
		if len(rest) == 0 && b.Name != recordName(u.Name) {
			err = bindings.Delete(ctx, b.Name, metav1.DeleteOptions{})
		} else {
			b.Subjects = rest
			_, err = bindings.Update(ctx, b, metav1.UpdateOptions{})
		}
		errs = append(errs, fault("take user out of ClusterRoleBinding", b.Name, ignoreChanged(err)))
	}
	return found, errors.Join(errs...)
}

// ignoreChanged drops the errors that the next look mends: the binding is gone, or another one by now.
func ignoreChanged(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return kube.IgnoreNotFound(err)
}

// without drops the user, under every name it has had.
func without(subjects []rbacv1.Subject, name string) (rest []rbacv1.Subject, had bool) {
	for _, s := range subjects {
		if s.Kind == rbacv1.UserKind && belongs(s.Name, name) {
			had = true
			continue
		}
		rest = append(rest, s)
	}
	return rest, had
}

// foreign tells whether a subject is none of our users.
func foreign(s rbacv1.Subject) bool {
	return s.Kind != rbacv1.UserKind || !strings.HasPrefix(s.Name, Prefix)
}
