// Package manifest reads and writes files of definitions, in YAML or JSON.
//
// A file maps kinds to names to definitions, each as its value in etcd would be:
//
//	backends:
//	  web-1: {host: 10.0.0.7, port: 8080}
//	  team-a/web-2:
//	    host: 10.0.0.8
//	directors:
//	  default: {type: round_robin, backends: [web-1, team-a/web-2]}
//	health:
//	  web-1: drain
//
// Kinds may be singular. A YAML file may hold several documents, and several files
// may be read as one set; a definition that is there twice is an error. Anchors,
// aliases and merge keys work as in YAML 1.1. The words y, n, yes, no, on and off are
// strings, as in YAML 1.2, except where a definition takes true or false alone.
//
// # Errors
//
// All errors of all files are reported together, each with its file, line and column,
// definition and field. Only a file whose syntax is broken is given up at the first
// one, with its line.
package manifest
