// Package version holds what the build stamps into the program with -X.
package version

// Version and Commit are set at link time; a plain `go build` leaves the development values.
var (
	Version = "v0.0.0-dev"
	Commit  = "unknown"
)
