// Package manifests carries the Kubernetes objects that every cluster of ours has. pkg/server/bootstrap applies them.
package manifests

import (
	"embed"
	"io/fs"
)

const (
	// SystemDir is the folder of what every cluster has.
	SystemDir = "system"
	// MetricsDir is the folder of what belongs to the APIs metrics.k8s.io and custom.metrics.k8s.io.
	MetricsDir = "metrics"
	// AutoscalingDir is the folder of what belongs to scaling at set times.
	AutoscalingDir = "autoscaling"
	// RolesDir is the folder of the roles of people: tenants and operators.
	RolesDir = "roles"
	// BillingDir is the folder of what belongs to the API billing.nodeless.dev.
	BillingDir = "billing"
)

//go:embed system/*.yaml metrics/*.yaml autoscaling/*.yaml roles/*.yaml billing/*.yaml
var files embed.FS

// System gives the objects as files below the folders above, with ${NAME} where the cluster's own values belong.
func System() fs.FS { return files }
