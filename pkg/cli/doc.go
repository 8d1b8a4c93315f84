// Package cli is the command line of nodeless: a file for each command, and the only place that prints errors with
// their hints. cmd/nodeless calls Run and nothing else. Commands turn settings into the configurations of the roles;
// what they do lives below.
package cli
