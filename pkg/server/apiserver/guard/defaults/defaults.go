// Package defaults is what pkg/server/apiserver/guard lets everybody have unless the operator says otherwise. pkg/cli/config offers it as
// the defaults of options: it is a package of its own so that these do not carry the apiserver.
package defaults

// Conns is how many connections one address may have open. A connection is memory of the server's before anybody has said who he is;
// a client that uses HTTP/2 needs one for a hundred requests at once.
const Conns = 1000

// Requests is how many requests one may have open that last. Each is memory of the server's: 500 watches of a small namespace took
// some 10 MB, and each has a queue of its own for what changes. A controller has one watch for each kind that it follows, and kubectl has
// one at a time.
const Requests = 500
