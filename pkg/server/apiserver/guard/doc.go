// Package guard stands between strangers and what an apiserver does for them beside objects, which admission judges: how many requests and
// connections they hold open, whom they have the apiserver call, who counts as a member of system:masters, what the audit log keeps of a request,
// and how the database's refusals are told. pkg/server/apiserver puts its parts into upstream's configuration.
package guard
