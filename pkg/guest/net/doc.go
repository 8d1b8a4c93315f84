// Package net configures the guest's network interfaces, routes and neighbours as the host orders.
// pkg/guest/agent calls it with the messages of the Kata agent protocol. Every order is a desired
// state and may come twice: Kata sends each once for the sandbox and again for its first container.
//
// It needs CAP_NET_ADMIN; the conversions in convert.go are pure.
package net
