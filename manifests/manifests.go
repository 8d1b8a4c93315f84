// Package manifests carries the Kubernetes objects that every cluster of ours has. pkg/server/bootstrap applies them.
package manifests

import (
	"embed"
	"io/fs"
)

const (
	// SystemDir is the folder of what every cluster has.
	SystemDir = "system"
	// MetricsDir is the folder of what belongs to the API metrics.k8s.io.
	MetricsDir = "metrics"
)

//go:embed system/*.yaml metrics/*.yaml
var files embed.FS

// System gives the objects as files below the folders above, with ${NAME} where the cluster's own values belong.
func System() fs.FS { return files }
