// Command conformance runs Kubernetes' own conformance tests, which scripts/conformance.sh has built, against the product in a test host,
// and says what passed. It goes on where an earlier run ended: what passed is not run again.
//
// Usage: conformance images -bin DIR -base TAR -out DIR | conformance run -dist DIR [flags]
package main
