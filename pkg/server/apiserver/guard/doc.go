// Package guard stands between strangers and what an apiserver does for them beside objects, which admission judges. It bounds how many
// requests and connections they hold open, and whom they have the apiserver call. It decides who counts as a member of system:masters,
// what the audit log keeps of a request, and how the database's refusals are told. pkg/server/apiserver puts its parts into upstream's
// configuration.
package guard
