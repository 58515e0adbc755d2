package table

import (
	"fmt"

	"roster/store"
)

// unserved says which parts of a definition this version accepts and has no use
// for, so that nobody takes silence for effect.
func unserved(def store.Definition) (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	switch d := def.(type) {
	case *store.Route:
		if d.When != "" {
			warn("when: is not computed by this version: on_error decides, and a request gets 500 unless it is \"skip\"")
		}
	}
	return warnings
}
