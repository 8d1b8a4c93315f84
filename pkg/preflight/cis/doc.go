// Package cis looks at a server the way the CIS Kubernetes Benchmark does, by its numbers (of version 1.11.1) and in words of our own.
// Each control is answered with pass, warn, or not applicable with the reason. `nodeless check --cis` gathers the facts and prints the
// result.
//
// What it judges are facts: the arguments that the components are really given, the kubelet's settings as it tells them, modes and owners
// of the files that are there, and objects of the cluster. It reads files only through the fs.FS it is given.
package cis
