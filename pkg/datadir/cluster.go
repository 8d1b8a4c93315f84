package datadir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/hint"
)

// ClusterIDFile is where the id of the cluster is kept. It goes into backups: a restored cluster is the same one.
func (d Dir) ClusterIDFile() string { return d.path("server", "cluster-id") }

// clusterIDs are as TKE's: "cls-" and eight letters and digits.
var clusterIDs = regexp.MustCompile(`^cls-[0-9a-z]{8}$`)

// ClusterID is what tells this cluster from every other one, such as "cls-8zkc7ftn". It is made the first time, and stays.
func (d Dir) ClusterID() (string, error) {
	file := d.ClusterIDFile()
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return d.newClusterID()
	}
	if err != nil {
		return "", fmt.Errorf("read id of the cluster: %w", err)
	}
	id := strings.TrimSuffix(string(raw), "\n")
	if !clusterIDs.MatchString(id) {
		return "", &hint.Error{Op: "read id of the cluster", On: file, Err: fmt.Errorf("%.40q is none", id),
			Do: "put the id there that bills and usages of this cluster have, or remove the file: then a new one is made"}
	}
	return id, nil
}

func (d Dir) newClusterID() (string, error) {
	id := "cls-" + strings.ToLower(rand.Text()[:8])
	file := d.ClusterIDFile()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", unwritable(d, err)
	}
	if err := atomicfile.Write(file, []byte(id+"\n"), 0o600); err != nil {
		return "", unwritable(d, err)
	}
	return id, nil
}
