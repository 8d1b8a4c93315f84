// Package bundle handles the files that nodeless brings along: the main program, QEMU, the guest kernel and
// whatever else is started on a host. cmd/nodeless-launcher calls Unpack to lay them out once per version; the main
// program finds them again with Locate and Open, and `nodeless check` proves them unharmed with Verify. The build
// tools in bundle/ write the same formats.
//
// A bundle is a folder tree with a manifest, bundle.json, whose hash names the bundle. In the file that ships it
// is one zstd stream behind the launcher (see Trailer).
package bundle
