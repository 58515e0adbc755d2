// Package route finds the route that a request takes.
//
// An [Index] holds routes by host and path; [Index.Match] looks only at those
// whose host and path are the request's, in the order of the contract: higher
// priority first, then the more specific host (exact, the longest wildcard, any),
// then the longer path (of two equal ones the exact before the prefix), then the
// name. Within one host and path, what else a route asks for (method, client,
// header, query, path_regex, when) is compared route by route.
//
// # Cost
//
// An Index is a persistent value: a change copies what is on its way, some
// hundred bytes a level of trees of 32 ways, and shares the rest with the Index
// before, which never changes. One edit may hold any number of changes and copies
// nothing twice.
//
// # Concurrency
//
// An Index and its routes may be read from any goroutine, for ever. An Edit and a
// Query belong to one goroutine each.
//
// # What it does not do
//
// Know backends: a route's target is a number that the table gives a meaning.
package route
