// Package rules holds the house rules of this repository as plain tests: which package may import which, who owns each
// heavy dependency, and the limits of docs/conventions. It reads source text only, so it runs in a second.
package rules
