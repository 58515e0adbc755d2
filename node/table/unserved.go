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
	case *store.Director:
		if d.Type != store.RoundRobin {
			warn("type: %s is served as round_robin by this version", d.Type)
		}
		if d.Select != nil {
			warn("select: adds no members in this version")
		}
		for _, m := range d.Members {
			if m.Weight != 0 && m.Weight != 1 {
				warn("backends: weights other than 0 and 1 count as 1 in this version")
				break
			}
		}
		if d.Cookie != nil || d.Outlier != nil || d.Panic != 0 || d.SlowStart != 0 {
			warn("cookie, outlier, panic and slow_start have no effect in this version")
		}
	case *store.Route:
		if d.When != "" {
			warn("when: is not computed by this version: on_error decides, and a request gets 500 unless it is \"skip\"")
		}
	}
	return warnings
}
