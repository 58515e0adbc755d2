package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"roster/cmd/roster/internal/nearest"
	"roster/cmd/roster/internal/settings"
)

// flagErrors is all that is wrong with a command's flags. The library, whose error is the
// first, stops there.
func flagErrors(cmd *cobra.Command, args []string, first error) error {
	var all []error
	say := func(err error) {
		all = append(all, fmt.Errorf("%w; %s --help lists the flags", err, cmd.CommandPath()))
	}
	set := func(f *pflag.Flag, value string) {
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			say(fmt.Errorf(`invalid argument %q for "--%s" flag: %w`, value, f.Name, settings.Cause(err)))
		}
	}
	unknown := func(word, name string, names []string) {
		near := ""
		if name := nearest.Word(name, names); name != "" {
			near = fmt.Sprintf(", did you mean --%s?", name)
		}
		say(fmt.Errorf("unknown flag: %s%s", word, near))
	}
	next := func() (string, bool) {
		if len(args) == 0 {
			return "", false
		}
		value := args[0]
		args = args[1:]
		return value, true
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	for arg, ok := next(); ok && arg != "--"; arg, ok = next() {
		name, long := strings.CutPrefix(arg, "--")
		switch {
		case long:
			name, value, given := strings.Cut(name, "=")
			f := cmd.Flags().Lookup(name)
			switch {
			case f == nil:
				unknown("--"+name, name, names)
			case !given && f.NoOptDefVal != "":
			case !given:
				if value, given = next(); !given {
					say(fmt.Errorf("flag needs an argument: --%s", name))
				}
			}
			if f != nil && given {
				set(f, value)
			}
		case len(arg) > 1 && arg[0] == '-':
			for letters := arg[1:]; letters != ""; {
				f := cmd.Flags().ShorthandLookup(letters[:1])
				letter := letters[:1]
				letters = letters[1:]
				if f == nil {
					unknown("-"+letter, "", nil)
					break
				}
				if f.NoOptDefVal != "" {
					continue
				}
				value := strings.TrimPrefix(letters, "=")
				letters = ""
				if value == "" {
					if value, ok = next(); !ok {
						say(fmt.Errorf("flag needs an argument: -%s", letter))
						break
					}
				}
				set(f, value)
			}
		}
	}
	if all == nil { // it knows better
		say(first)
	}
	return joined(all)
}
