// Package testregistry is an image registry for tests: a well-known one in memory, behind TLS with a certificate of its own
// authority and behind basic authentication, and a builder of images that can be as odd as a test wants them.
//
// Nothing is checked on the way in, so that an image may lie about its layers.
package testregistry
