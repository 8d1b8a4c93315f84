// Package preflight looks at a host and says of each fact that nodeless needs whether it holds, and what to do where it
// does not. `nodeless check` prints all of it; the server runs Require at its start and refuses on a host that cannot work.
// The host is a parameter (fs.FS for /proc, /sys and /etc, functions for the rest). What is tried for real is made only
// inside a network and mount namespace that is thrown away: nothing on the host is changed.
package preflight
