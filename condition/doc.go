// Package condition computes the conditions of routes: expressions in CEL, the
// Common Expression Language (https://cel.dev), over a request.
//
// [Compile] checks an expression, types included, and says all that is wrong with
// it; [Condition.Eval] computes it for an [Input]. Expressions know
//
//	req.method  req.host  req.path  req.url  req.proto   strings
//	req.header  req.query  req.cookie                    maps of string to string
//	client.ip                                            string
//	backend.healthy(name)                                bool
//
// path and host are as routes match them: the path normalised, the host in lower
// case without its port. url is the target as the client sent it. A map has "" for
// what is absent, and the values of what comes several times joined by ", "; 'x' in
// map and has(map.x) tell absent from empty. Names in header are in lower case; its host is
// the request's, wherever that was written, with its port.
//
// Besides CEL's own functions and macros there are the strings' lowerAscii(),
// trim() and split(separator).
//
// # Bounds
//
// An expression is short (4 KiB), its regular expressions are literals of at most
// 20,000 instructions together, and one computation costs at most [CostLimit]: what it
// reads of the request counts, too.
//
// # Concurrency
//
// A Condition may be computed by any number of goroutines at once. Equal
// expressions are one Condition as long as somebody has it.
package condition
