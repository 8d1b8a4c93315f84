// Package manifests carries the Kubernetes objects that every cluster of ours has. pkg/server/bootstrap applies them.
package manifests

import (
	"embed"
	"io/fs"
)

// SystemDir is the folder of System that holds the objects.
const SystemDir = "system"

//go:embed system/*.yaml
var system embed.FS

// System gives the objects as files below SystemDir, with ${NAME} where the cluster's own values belong.
func System() fs.FS { return system }
