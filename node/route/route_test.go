package route

import (
	"roster/condition"
)

var compiled = func() map[string]*condition.Condition {
	all := map[string]*condition.Condition{}
	for _, text := range []string{whenGet, whenFails} {
		c, err := condition.Compile(text)
		if err != nil {
			panic(err)
		}
		all[text] = c
	}
	return all
}()
