// Package teardown removes what nodeless made on a host. CollectOrphans, which pkg/worker calls before it starts containerd,
// removes what is left of Pods whose shim is gone, after a crash or a kill -9 of everything. The steps of Uninstall, which pkg/cli
// runs for `nodeless uninstall`, remove all of it but the files, and nothing else.
//
// How ours is told from others': processes run an executable of our bundle, sandboxes have our VMM in Kata's state or a
// scratch disk in our data dir, mounts are below our folders, links and packet rules have our names.
package teardown
