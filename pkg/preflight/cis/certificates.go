package cis

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// certificate is one that the server has written.
type certificate struct {
	file string
	*x509.Certificate
}

// certificates reads those in the folders of certificates, and the one in the administrator's kubeconfig.
func (f Facts) certificates() ([]certificate, error) {
	found, err := f.stat(f.Files.TLS...)
	if err != nil {
		return nil, err
	}
	var list []certificate
	for _, x := range found {
		if path.Ext(x.path) != ".crt" {
			continue
		}
		text, err := fs.ReadFile(f.Root, strings.TrimPrefix(x.path, "/"))
		if err != nil {
			return nil, err
		}
		if list, err = add(list, x.path, text); err != nil {
			return nil, err
		}
	}
	var kubeconfig struct {
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
			} `json:"user"`
		} `json:"users"`
	}
	err = f.read(f.Files.Kubeconfig, &kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	for _, u := range kubeconfig.Users {
		if err == nil && len(u.User.Certificate) > 0 {
			list, err = add(list, f.Files.Kubeconfig, u.User.Certificate)
		}
	}
	return list, err
}

func add(list []certificate, file string, text []byte) ([]certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return list, fmt.Errorf("%s holds no certificate", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return list, fmt.Errorf("%s: %w", file, err)
	}
	return append(list, certificate{file, c}), nil
}

// onCertificates judges what is there.
func onCertificates(judge func(f Facts, all []certificate) verdict) func(Facts) verdict {
	return func(f Facts) verdict {
		all, err := f.certificates()
		switch {
		case err != nil:
			return warn(err.Error(), "run it as root; a damaged certificate is made anew when its file is removed and the server starts")
		case len(all) == 0:
			return notApplicable(notYet)
		}
		return judge(f, all)
	}
}

// renewed: the server makes new certificates by itself, so none may be out of date.
func renewed() func(Facts) verdict {
	return onCertificates(func(f Facts, all []certificate) verdict {
		var old []string
		first := all[0].NotAfter
		for _, c := range all {
			if f.Now.After(c.NotAfter) {
				old = append(old, c.file)
			}
			if c.NotAfter.Before(first) {
				first = c.NotAfter
			}
		}
		if len(old) > 0 {
			return warn("out of date: "+some(old), "start the server: it makes new ones by itself")
		}
		return pass("the server renews every one, and the kubelet reads its own again; the first ends " + first.UTC().Format(time.DateOnly))
	})
}

// shortLife is what a certificate may be good for whose rights nobody can take away.
const shortLife = 48 * time.Hour

// masters: the rights of system:masters come with a certificate and cannot be taken away, except by time.
func masters() func(Facts) verdict {
	return onCertificates(func(_ Facts, all []certificate) verdict {
		var long, short []string
		for _, c := range all {
			switch {
			case !slices.Contains(c.Subject.Organization, "system:masters"):
			case c.NotAfter.Sub(c.NotBefore) > shortLife:
				long = append(long, c.file)
			default:
				short = append(short, c.file)
			}
		}
		switch {
		case len(long) > 0:
			return warn("in the group, for long: "+some(long), "keep these files on the host; hand out what `nodeless user create` makes, whose rights can be taken back")
		case len(short) > 0:
			return pass("the server itself alone, by a certificate for a day that never leaves the host: " + some(short))
		}
		return pass("nobody")
	})
}
